/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_file.h - the file or block device of the nvme adapter: found or made,
 * locked, its superblock and table read and written. Blocking calls, for open
 * and close; while the adapter runs, only the fields are looked at.
 */
#ifndef KVH_L2_NVME_FILE_H
#define KVH_L2_NVME_FILE_H

#include "l2/io.h"
#include "l2/nvme_layout.h"

#include <stdbool.h>

enum kvh_nvme_direct { KVH_NVME_DIRECT_AUTO, KVH_NVME_DIRECT_ON, KVH_NVME_DIRECT_OFF };
enum kvh_nvme_engine { KVH_NVME_ENGINE_AUTO, KVH_NVME_ENGINE_URING, KVH_NVME_ENGINE_THREADS };
enum kvh_nvme_sync { KVH_NVME_SYNC_CLOSE, KVH_NVME_SYNC_NONE, KVH_NVME_SYNC_WRITE };

/* The options, as docs/nvme.md explains them. */
struct kvh_nvme_conf {
	char *path;
	uint64_t size;    /* 0: not given */
	uint64_t segment; /* 0: chosen */
	uint32_t depth;
	uint32_t threads;
	int engine; /* enum kvh_nvme_engine */
	int direct; /* enum kvh_nvme_direct */
	int sync;   /* enum kvh_nvme_sync */
	int format; /* 1: what would be refused is formatted over */
};

struct kvh_nvme_file {
	const struct kvh_io_ops *io;
	void *io_ctx;
	const struct kvh_nvme_conf *conf;
	int fd;
	bool direct;                  /* fd has O_DIRECT */
	bool created;                 /* by us: it goes again if open fails */
	bool block;                   /* a block device */
	bool refused;                 /* a transfer with O_DIRECT was */
	uint64_t bytes;               /* of the file or device, as found */
	struct kvh_nvme_super *super; /* a page; what the disk has, once open */
	void *page;                   /* a page, for whoever writes one */
	uint64_t *generations;        /* [super->table_pages] */
};

/* Leaves nothing behind on failure. Logged: what was found, what is allowed.
 * -ENOENT no such file and no size, -EBUSY another has it open, -EEXIST it
 * holds something else or was made with another size, -EBADMSG the superblocks
 * are damaged or the file was cut, -EPROTONOSUPPORT another version, -EINVAL
 * too small or no file at all, others as the file system says. */
int kvh_nvme_file_open(struct kvh_nvme_file *file, const struct kvh_nvme_conf *conf,
		       const struct kvh_io_ops *io, void *io_ctx);

/* Closes; `clean`: all that was accepted has ended, and this is written down. */
void kvh_nvme_file_close(struct kvh_nvme_file *file, bool clean);

/* All of `len` bytes, or a negative errno. Aligned, as O_DIRECT wants it. */
int kvh_nvme_file_read(struct kvh_nvme_file *file, void *buf, uint64_t len, uint64_t off);
int kvh_nvme_file_write(struct kvh_nvme_file *file, const void *buf, uint64_t len,
			uint64_t off);

/* entries [super->segments]; of a page that is damaged in both copies they are
 * not assigned, and the log says so. -ENOMEM. */
int kvh_nvme_file_read_table(struct kvh_nvme_file *file, struct kvh_nvme_entry *entries);

#endif
