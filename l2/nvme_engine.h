/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_engine.h - the two ways of the nvme adapter to read and write its file:
 * io_uring, and a pool of threads for where that is refused. The same promises:
 *
 *   - start never fails: what goes wrong is the transfer's result;
 *   - a started transfer is returned by reap exactly once;
 *   - all of its bytes were moved, or the result is negative: one that ends
 *     early is continued, a large one goes in pieces;
 *   - `efd` becomes readable when reap has something.
 *
 * One thread at a time calls. At most `depth` transfers are running.
 */
#ifndef KVH_L2_NVME_ENGINE_H
#define KVH_L2_NVME_ENGINE_H

#include "l2/nvme_file.h"

#include <pthread.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One transfer. Its memory is the owner's, the fields the engine's until reap. */
struct kvh_nvme_io {
	struct kvh_nvme_io *next;
	char *buf;
	uint64_t off, len;        /* in whole pages */
	uint64_t done;            /* bytes moved so far, <= len */
	uint32_t region;          /* as attach returned it; anything else: unregistered */
	int result;               /* when reaped: 0 or a negative errno */
	uint8_t dir;              /* enum kvh_io_dir */
	uint8_t retries;          /* without progress */
	bool cancelled;           /* with __atomic: another thread may have the transfer */
	uint8_t owner;            /* for the owner */
	uint8_t kind;             /* for the scheduler */
	bool flying;              /* the same */
} __attribute__((__may_alias__)); /* may lie in a request's scratch */

struct kvh_nvme_io_list {
	struct kvh_nvme_io *head, **tail; /* tail: where the next one goes */
};

struct kvh_nvme_engine_ops {
	const char *name;
	int (*open)(const struct kvh_nvme_file *file, uint32_t depth, uint32_t threads, int efd,
		    void **engine_p);
	/* Nothing is running. */
	void (*close)(void *engine);
	void (*start)(void *engine, struct kvh_nvme_io *io);
	/* Asks for an early end. */
	void (*cancel)(void *engine, struct kvh_nvme_io *io);
	/* Takes all that have ended; NULL: none. */
	struct kvh_nvme_io *(*reap)(void *engine);
	/* Optional: between on and off, start need not give it to the kernel. */
	void (*plug)(void *engine, bool on);
	/* As in l2.h, or NULL: every transfer is unregistered. */
	int (*attach)(void *engine, void *base, uint64_t len);
};

extern const struct kvh_nvme_engine_ops kvh_nvme_uring;
extern const struct kvh_nvme_engine_ops kvh_nvme_threads;

/* A thread that takes no signals: they are for the program's own. */
int kvh_nvme_spawn(pthread_t *thread, void *(*run)(void *), void *arg);

/* ---- for the engines ---- */

/* Bytes of one request to the kernel: bounds what it pins and allocates. */
#define KVH_NVME_PIECE (UINT64_C(64) << 20)

static inline uint64_t kvh_nvme_io_piece(const struct kvh_nvme_io *io)
{
	uint64_t left = io->len - io->done;

	return left < KVH_NVME_PIECE ? left : KVH_NVME_PIECE;
}

/* Takes in what one request came to, bytes or a negative errno. True: the
 * transfer has ended, with io->result. */
bool kvh_nvme_io_advance(struct kvh_nvme_io *io, int64_t res, bool direct);

static inline void kvh_nvme_io_list_init(struct kvh_nvme_io_list *list)
{
	list->head = NULL;
	list->tail = &list->head;
}

static inline void kvh_nvme_io_list_append(struct kvh_nvme_io_list *list,
					   struct kvh_nvme_io *io)
{
	io->next = NULL;
	*list->tail = io;
	list->tail = &io->next;
}

/* The whole of it, as a list ended by NULL. */
static inline struct kvh_nvme_io *kvh_nvme_io_list_take(struct kvh_nvme_io_list *list)
{
	struct kvh_nvme_io *head = list->head;

	kvh_nvme_io_list_init(list);
	return head;
}

#ifdef __cplusplus
}
#endif
#endif
