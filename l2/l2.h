/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l2.h - the contract between the engine and its adapters: one const table of
 * functions an adapter. docs/adapters.md explains it to those who write one;
 * tests/l2_conformance_test.cc holds every registered adapter to it.
 *
 *   1. One thread. The controller makes every call on its own thread, except
 *      open and close (a helper thread, before the first and after the last
 *      other call; attach on open's thread right after it) and peek (any thread
 *      in between).
 *   2. Nothing blocks but open and close. A close that cannot finish by its
 *      deadline returns -ETIMEDOUT and leaves what the transfers still touch.
 *   3. Exactly once. A request that submit accepted (0) is the adapter's until
 *      reap returns it, exactly once, also when it failed or was cancelled. A
 *      refused one was never touched.
 *   4. The event fd is a hint: readable when reap may have something. Reap
 *      clears it, drains, and raises it again if something is left. Spurious
 *      wake-ups are legal; a missed one costs the controller's sweep, 100 ms.
 *   5. A short read is an error (-EIO), and so is an object whose size is not
 *      the GET's `len`: never stale bytes with status 0.
 *   6. Presence is advice: a GET may miss (-ENOENT) after a PROBE hit.
 *   7. After a PUT's success the object can be found, after its failure it
 *      cannot (and what was there before under the key may be gone). One PUT or
 *      DELETE a key at a time is the engine's duty; GETs and PROBEs of the key
 *      may run beside them and see either state, never a mixture.
 *   8. Objects are frames (host/frame.h), and the engine verifies them. An
 *      adapter may look into the header, which is public, and need not.
 *   9. An adapter evicts by itself, within its bytes. The engine keeps no index
 *      of it.
 *  10. Buffers are aligned to 4 KiB and so are lengths. A buffer is not touched
 *      after its request was reaped.
 *  11. After a CLEAR's success no object of its space can be found whose PUT had
 *      ended before the CLEAR was submitted, not even after a reopen; other
 *      spaces are as they were. Requests of the space that run beside it see
 *      either state, as in 7. After its failure some may be found.
 *  12. After a FLUSH's success, what PUT, DELETE and CLEAR had ended before it
 *      was submitted outlasts a loss of power, unless it was evicted. After its
 *      failure nothing since the last one that succeeded is held to.
 *  13. Limits of a space: beyond `hard` its own objects go first, and a PUT that
 *      finds none to go ends with -EDQUOT: used_bytes of the space never exceeds
 *      `hard`, once it was below. A space beyond `soft` gives way before others
 *      when room is short. An object larger than `hard` is -EDQUOT.
 *  14. Health is found out by the adapter itself, within a second, also without
 *      traffic, and goes back to 0 when what was wrong is over.
 */
#ifndef KVH_L2_L2_H
#define KVH_L2_L2_H

#include "kvhoist.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_L2_ABI         3u
#define KVH_L2_NO_REGION   UINT32_MAX
#define KVH_L2_DEADLINE_NO UINT64_MAX

struct kvh_io_ops;

enum kvh_l2_op {
	KVH_L2_PUT,    /* buf holds the sealed frame, len its bytes */
	KVH_L2_GET,    /* buf has room for the frame, len its bytes */
	KVH_L2_PROBE,  /* no buf; len becomes the object's bytes. -ENOENT: not there */
	KVH_L2_DELETE, /* no buf. -ENOENT: was not there */
	KVH_L2_CLEAR,  /* no buf; of key only the space counts. Only where caps.clear */
	KVH_L2_FLUSH,  /* no buf, no key. Only where caps.flush */
};

/* The submitter's memory. */
struct kvh_l2_req {
	enum kvh_l2_op op;
	int status; /* set by the adapter: 0 or a negative errno */
	struct kvh_key key;
	void *buf;
	uint64_t len;
	uint32_t region; /* of buf, as attach returned it, or KVH_L2_NO_REGION */
	bool cancelled;  /* set by cancel's caller's side; adapters may look */
	void *owner;     /* the submitter's */
	struct kvh_l2_req
		*next;        /* the adapter's while it has the request, else the submitter's */
	uint64_t scratch[16]; /* the adapter's while it has the request */
};

struct kvh_l2_caps {
	uint32_t max_inflight; /* requests accepted before -EAGAIN, >= 1 */
	uint32_t align;        /* of buf and len, bytes, <= 4096 */
	uint64_t max_len;      /* of one object, bytes */
	bool local_index;      /* peek is there and cheap */
	bool volatile_;        /* holds nothing after close */
	bool clear;            /* takes KVH_L2_CLEAR */
	bool flush;            /* takes KVH_L2_FLUSH; without: a PUT is what it will be */
	bool discards;         /* keeps nothing of what it gets: frames come unsealed */
};

struct kvh_l2_usage {
	uint64_t used_bytes;
	uint64_t capacity_bytes; /* 0: not known */
	uint64_t objects;        /* UINT64_MAX: not known */
	uint64_t evicted;        /* objects, since open */
	/* Transfers, since open, that went through the page cache because O_DIRECT
	 * was refused. Not by space. */
	uint64_t buffered;
};

/* What an adapter is given at open, valid until close returns. */
struct kvh_l2_env {
	const struct kvh_io_ops *io; /* every file operation goes through it */
	void *io_ctx;
};

struct kvh_l2_ops {
	uint32_t abi; /* KVH_L2_ABI; another is refused */
	const char *name;
	const char *help; /* options, a line each: "size=BYTES  room for frames, ..." */

	/* `conf` is what stands behind "name:". On failure *self_p is left alone
	 * and the reason was logged.
	 * -EINVAL an option; others as the medium says */
	int (*open)(const char *conf, const struct kvh_l2_env *env, void **self_p);
	/* Cancels what it can, waits until deadline_ns (CLOCK_MONOTONIC; UINT64_MAX:
	 * for ever), frees. Requests that were never reaped are dropped. 0 or
	 * -ETIMEDOUT: transfers still run; self and their buffers stay as they are. */
	int (*close)(void *self, uint64_t deadline_ns);
	void (*query)(const void *self, struct kvh_l2_caps *caps);
	/* Optional: memory whose buffers can be used faster, <= 1 GiB each. After open,
	 * and, as more is pinned, at any time, while requests are out. It may take
	 * as long as registering takes. A region number, or a negative errno:
	 * refused, such buffers are used unregistered. */
	int (*attach)(void *self, void *base, uint64_t len);
	/* 0 accepted, -EAGAIN full, -EINVAL violates caps. */
	int (*submit)(void *self, struct kvh_l2_req *req);
	/* Optional: asks for an early end of an accepted request; it is reaped as
	 * ever, with -ECANCELED or its own result. */
	void (*cancel)(void *self, struct kvh_l2_req *req);
	/* Moves up to `max` ended requests to done[]; returns how many. */
	uint32_t (*reap)(void *self, struct kvh_l2_req **done, uint32_t max);
	/* One fd from open to close, the adapter's; epoll must take it. */
	int (*event_fd)(const void *self);
	void (*usage)(const void *self, struct kvh_l2_usage *usage);
	/* Optional: calls visit for each object until it returns false. For tools
	 * and tests, with nothing in flight; may block. */
	int (*list)(void *self,
		    bool (*visit)(void *arg, const struct kvh_key *key, uint64_t len),
		    void *arg);
	/* Required where caps.local_index: sets bit[i] to 1 or 0 from the local
	 * index alone. Any thread. Advice. */
	void (*peek)(const void *self, const struct kvh_key *keys, uint32_t n, uint8_t *found);
	/* Optional: rule 13. 0: no such limit; soft_bytes <= hard_bytes where both
	 * are set. For a space that it does not know yet, too; what is beyond `hard`
	 * goes with the next PUTs at the latest. Not kept over a close. -EINVAL,
	 * -ENOMEM: they stay as they were. -EOPNOTSUPP: what it wraps has none. */
	int (*limits)(void *self, kvh_space_t space, uint64_t soft_bytes, uint64_t hard_bytes);
	/* Optional: of one space; capacity_bytes is its hard limit, 0: none. All
	 * zeros for a space that it does not know. */
	void (*usage_space)(const void *self, kvh_space_t space, struct kvh_l2_usage *usage);
	/* Optional, rule 14: 0, or a negative errno and *why_p, a static text. Never
	 * blocks. Requests may still be submitted, and may fail. */
	int (*health)(const void *self, const char **why_p);
};

/* The adapters of this build, ended by NULL: l2/registry.c. */
extern const struct kvh_l2_ops *const kvh_l2_registry[];

/* Finds the adapter of "name:conf" or "name" and where its conf starts.
 * -ENOENT no such adapter: logged, with the names there are. */
int kvh_l2_find(const char *spec, const struct kvh_l2_ops **ops_p, const char **conf_p);

#ifdef __cplusplus
}
#endif
#endif
