/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_file.h - one file or block device of the nvme adapter: found or made,
 * locked, its superblock and table read and written (nvme_file.c), and what is on
 * it judged and made (nvme_format.c). Blocking calls, for open and close; while
 * the adapter runs, only the fields are looked at.
 */
#ifndef KVH_L2_NVME_FILE_H
#define KVH_L2_NVME_FILE_H

#include "l2/conf.h"
#include "l2/io.h"
#include "l2/nvme_layout.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kvh_nvme_direct { KVH_NVME_DIRECT_AUTO, KVH_NVME_DIRECT_ON, KVH_NVME_DIRECT_OFF };
enum kvh_nvme_engine { KVH_NVME_ENGINE_AUTO, KVH_NVME_ENGINE_URING, KVH_NVME_ENGINE_THREADS };
enum kvh_nvme_sync { KVH_NVME_SYNC_CLOSE, KVH_NVME_SYNC_NONE, KVH_NVME_SYNC_WRITE };

/* The options, as docs/nvme.md explains them. */
struct kvh_nvme_conf {
	char *path;
	struct kvh_conf_list more; /* the paths of the other stripes */
	uint64_t size;             /* of each file; 0: not given */
	uint64_t segment;          /* 0: chosen */
	uint64_t budget;           /* bytes in flight in each file; 0: searched for */
	uint64_t floor_bytes;      /* of free space on the file system; 0: none */
	uint32_t floor_pct;        /* the same, in percent */
	uint32_t depth;
	uint32_t threads;
	uint32_t check_ms; /* how often the files are looked after; 0: never */
	char *floor;       /* as given */
	int engine;        /* enum kvh_nvme_engine */
	int direct;        /* enum kvh_nvme_direct */
	int sync;          /* enum kvh_nvme_sync */
	int eviction;      /* index of a policy in nvme_open.c */
	int discard;       /* 1: the room of deleted frames is given back */
	int format;        /* 1: what would be refused is formatted over */
};

enum kvh_nvme_found {
	KVH_NVME_OURS,  /* sound: file->super */
	KVH_NVME_BLANK, /* nothing, or less than a superblock: may be formatted */
	KVH_NVME_OTHER, /* not to be used as it is, as logged; format=yes was asked for */
};

struct kvh_nvme_file {
	const struct kvh_io_ops *io;
	void *io_ctx;
	const struct kvh_nvme_conf *conf;
	const char *path;
	int fd;
	bool direct;  /* fd has O_DIRECT */
	bool created; /* by us, and nobody else has had it: it goes if open fails */
	bool block;   /* a block device */
	bool refused; /* a transfer with O_DIRECT was */
	bool begun;   /* kvh_nvme_file_begin */
	bool paired;  /* both superblocks are sound, and one follows the other */
	enum kvh_nvme_found found;
	uint64_t bytes;               /* of the file or device, as found */
	dev_t dev;                    /* st_dev, of a device st_rdev */
	ino_t ino;                    /* st_ino; of a device 0 */
	struct kvh_nvme_super *super; /* a page; what the disk has, once open */
	void *page;                   /* a page, for whoever writes one */
	uint64_t *generations;        /* [super->table_pages], once read */
	uint32_t bad_table_pages;     /* in both copies, once read */
	int table_error;              /* of one of these that may be sound: a read failed */
};

/* Leaves nothing behind on failure. Logged: what was found, what is allowed.
 * -ENOENT no such file and no size, -EBUSY another has it open, -EEXIST it
 * holds something else or was made with another size, -EBADMSG the superblocks
 * are damaged or the file was cut, -EPROTONOSUPPORT another version, -EINVAL
 * too small or no file at all, others as the file system says. With format=yes
 * -EEXIST, -EBADMSG and -EPROTONOSUPPORT are KVH_NVME_OTHER. */
int kvh_nvme_file_open(struct kvh_nvme_file *file, const struct kvh_nvme_conf *conf,
		       const char *path, const struct kvh_io_ops *io, void *io_ctx);

/* Makes it stripe `stripe` of `stripes`; what it held is lost. In steps, so that a
 * set has its first superblock when all of its tables are on the disk. Each step is
 * on the medium before the next, whatever `sync` says: after a crash at any point the
 * file is as it was, or blank, or made. */
int kvh_nvme_file_format(struct kvh_nvme_file *file, const uint8_t uuid[16], uint32_t stripes,
			 uint32_t stripe);
int kvh_nvme_file_formatted(struct kvh_nvme_file *file);

/* Fills bytes, block, dev and ino of what fd is. Logged: neither file nor device. */
int kvh_nvme_file_find_size(struct kvh_nvme_file *file);

/* Makes it hold nothing, after kvh_nvme_file_begin, and gives its room back to the
 * medium where that can be; set, geometry and a file's reserved room stay. After a
 * crash some segments may have their frames still. Logged. */
int kvh_nvme_file_empty(struct kvh_nvme_file *file);

/* Marks it as open: a snapshot that it has is read before, or lost. */
int kvh_nvme_file_begin(struct kvh_nvme_file *file);

/* Closes; `clean`: all that was accepted has ended, and this is written down.
 * Not clean: what we made ourselves is removed again, if it was not begun. */
void kvh_nvme_file_close(struct kvh_nvme_file *file, bool clean);

/* All of `len` bytes, or a negative errno. Aligned, as O_DIRECT wants it. */
int kvh_nvme_file_read(struct kvh_nvme_file *file, void *buf, uint64_t len, uint64_t off);
int kvh_nvme_file_write(struct kvh_nvme_file *file, const void *buf, uint64_t len,
			uint64_t off);
/* Nothing with sync=none, unless `always`. */
int kvh_nvme_file_sync(const struct kvh_nvme_file *file, bool always);

/* entries [super->segments]; of a page that is damaged in both copies, or cannot be
 * read, they are not assigned, and the log says so. `rewrite`: each page is written again as it
 * is, for what we read may be in a cache only, after a flush that failed. */
int kvh_nvme_file_read_table(struct kvh_nvme_file *file, bool rewrite,
			     struct kvh_nvme_entry *entries);

/* What an opened file holds, by its superblock: 0 ours, 1 blank, or as
 * kvh_nvme_file_open fails; nvme_format.c, for nvme_file.c. */
int kvh_nvme_file_judge(struct kvh_nvme_file *file);

/* What stands on a file that is not ours: "ext4", "LVM2_member", "gpt", ..., or
 * "something" where libblkid knows it not. */
void kvh_nvme_file_name(const struct kvh_nvme_file *file, char *name, size_t size);

/* Reads both superblocks and leaves the one that counts in file->super. 0, 1 being
 * formatted, -ENOENT none, -EBADMSG, -EPROTONOSUPPORT, or as reading fails. */
int kvh_nvme_super_read(struct kvh_nvme_file *file);
/* Writes the next one. */
int kvh_nvme_super_write(struct kvh_nvme_file *file, bool clean);

/* ---- the set ---- */

/* Opens all of a set, in the order of the stripes: files[i] is stripe i of n. Formats
 * those that are blank, all or none. As kvh_nvme_file_open; -EEXIST also where they do
 * not belong together: one is missing, doubled or of another set. */
int kvh_nvme_set_open(struct kvh_nvme_file *files, uint32_t n, const struct kvh_nvme_conf *conf,
		      const struct kvh_io_ops *io, void *io_ctx);

#ifdef __cplusplus
}
#endif
#endif
