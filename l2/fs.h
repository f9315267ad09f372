/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs.h - private to the fs adapter: fs.c (threads, requests), fs_object.c (one
 * object's file), fs_clear.c (a space's), fs_index.c (what is there, and room for
 * more), fs_dir.c (names and directories), fs_watch.c (whether it is well).
 *
 * Under the root:
 *
 *   <space, 16 hex>/<hash byte 0, 2 hex>/<hash, 32>-<rank, 8>-<group, 8>  a frame
 *   tmp/<instance, 16 hex>.lock                       held while the instance lives
 *   tmp/<instance, 16 hex>-<number, 16 hex>           a frame being written
 *
 * Names are made of hex digits of the key and of nothing else. Every path is
 * opened beneath the root, through no symlink; what changes a directory has
 * that directory open and names one component in it.
 */
#ifndef KVH_L2_FS_H
#define KVH_L2_FS_H

#include "l2/io.h"
#include "l2/req.h"
#include "l2/shelf.h"
#include "l2/watch.h"

#include <pthread.h>
#include <stdatomic.h>

#define FS_WORKERS_MAX 64u
#define FS_NAME_LEN    50 /* "<32>-<8>-<8>" */

enum fs_sync { FS_SYNC_NONE, FS_SYNC_DATA, FS_SYNC_FULL };
enum fs_direct { FS_DIRECT_AUTO, FS_DIRECT_ON, FS_DIRECT_OFF };

struct fs_l2 {
	const struct kvh_io_ops *io;
	void *io_ctx;
	char *path;
	int root, tmp, lock_fd;
	uint64_t instance; /* random */

	uint64_t size; /* 0: no limit */
	uint32_t depth, n_workers;
	int sync, direct_option; /* enum fs_sync, enum fs_direct */
	int eviction;            /* index of kvh_shelf_policies */
	uint32_t check_ms;       /* 0: it is not looked after */
	struct kvh_watch *watch;
	atomic_bool direct;     /* O_DIRECT works, as far as is known */
	atomic_ullong buffered; /* transfers without it that should have had it */
	atomic_ullong next_tmp;
	atomic_int last_error; /* that was logged; 0 after a success */

	pthread_mutex_t lock;
	pthread_cond_t work;   /* `waiting` is not empty, or `closing` */
	pthread_cond_t exited; /* n_running has changed */
	uint32_t accepted;     /* waiting + in workers' hands + done, <= depth */
	uint32_t n_running;    /* workers */
	bool closing;
	struct kvh_req_fifo waiting, done;
	int event;
	pthread_t workers[FS_WORKERS_MAX];

	/* used + reserved <= size unless other processes write here too. */
	pthread_mutex_t index_lock;
	pthread_cond_t settled; /* an item is HELD no more */
	struct kvh_shelf shelf;
};

/* ---- fs_dir.c ---------------------------------------------------------- */

/* Opens the root, making its last component; tmp/; the instance's lock; and
 * removes what dead instances left. 0 or a negative errno, logged. */
int kvh_fs_dir_open(struct fs_l2 *fs);
void kvh_fs_dir_close(struct fs_l2 *fs);

/* "<space>/<xx>/" + name; name_p points to the last component in `path`. */
struct fs_path {
	char text[16 + 1 + 2 + 1 + FS_NAME_LEN + 1];
};
#define FS_PATH_SPACE 16 /* length of "<space>" in it */
#define FS_PATH_DIR   19 /* length of "<space>/<xx>" in it */
#define FS_PATH_NAME  20 /* where the file's name starts */
void kvh_fs_path_make(const struct kvh_key *key, struct fs_path *path);

/* An fd of the directory the key's file is in, made if `make`. */
int kvh_fs_dir_of(struct fs_l2 *fs, const struct fs_path *path, bool make);

/* Every file that has a key's name, in no order. visit gets its size and
 * time; false ends it. What cannot be read is logged and passed over. */
int kvh_fs_walk(struct fs_l2 *fs,
		bool (*visit)(void *arg, const struct kvh_key *key, const struct stat *st),
		void *arg);

/* The same for the files of one space. */
int kvh_fs_walk_space(struct fs_l2 *fs, kvh_space_t space,
		      bool (*visit)(void *arg, const struct kvh_key *key,
				    const struct stat *st),
		      void *arg);

/* ---- fs_index.c -------------------------------------------------------- */

/* Fills the index from the directory, oldest first, and trims it to `size`. */
int kvh_fs_index_open(struct fs_l2 *fs);
void kvh_fs_index_close(struct fs_l2 *fs);

/* Before a PUT of len: the key's item, HELD, with room reserved; others are
 * evicted for it. Waits for a DELETE or eviction of the same key.
 * -ENOSPC, -EDQUOT, -ENOMEM. */
int kvh_fs_index_begin_put(struct fs_l2 *fs, const struct kvh_key *key, uint64_t len,
			   uint32_t *item_p, uint64_t *old_len_p);
/* After it: `len` bytes are under the name now; 0: nothing. */
void kvh_fs_index_end_put(struct fs_l2 *fs, uint32_t item, uint64_t reserved, uint64_t len);

/* Before and after a DELETE; KVH_SHELF_NONE: not in the index. */
uint32_t kvh_fs_index_begin_delete(struct fs_l2 *fs, const struct kvh_key *key);
void kvh_fs_index_end_delete(struct fs_l2 *fs, uint32_t item, bool gone);

/* A key of the space, from *at_p (0 at first) on, which moves; false: no more. */
bool kvh_fs_index_next(struct fs_l2 *fs, kvh_space_t space, uint32_t *at_p,
		       struct kvh_key *key);

/* A GET or PROBE found the file with len bytes, or (0) did not find it. */
void kvh_fs_index_saw(struct fs_l2 *fs, const struct kvh_key *key, uint64_t len);

/* ---- fs_object.c ------------------------------------------------------- */

int kvh_fs_put(struct fs_l2 *fs, const struct kvh_key *key, const void *buf, uint64_t len);
int kvh_fs_get(struct fs_l2 *fs, const struct kvh_key *key, void *buf, uint64_t len);
int kvh_fs_probe(struct fs_l2 *fs, const struct kvh_key *key, uint64_t *len_p);
int kvh_fs_delete(struct fs_l2 *fs, const struct kvh_key *key);
/* fs_clear.c */
int kvh_fs_clear(struct fs_l2 *fs, kvh_space_t space);
/* fs_watch.c: kvh_watch_opts.look; arg is the fs_l2. */
int kvh_fs_look(void *arg, const char **why_p);
/* The file only: no index. */
int kvh_fs_unlink(struct fs_l2 *fs, const struct kvh_key *key);
/* Does the file system take O_DIRECT? Sets fs->direct; -EINVAL if it is to be
 * on and cannot. */
int kvh_fs_try_direct(struct fs_l2 *fs);

#endif
