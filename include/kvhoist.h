/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvhoist.h - keep the KV cache of a language-model runtime.
 *
 * The way of the data: pages of a pool on a device are packed into frames in
 * pinned host memory (L1), and carried from there to storage (L2); a prefetch
 * brings them back to L1, verified, and a load unpacks them into pages again.
 * docs/architecture.md has the picture and the words.
 *
 * Conventions. Every function below follows them; a comment speaks up only
 * where a function differs.
 *
 *   errors     >= 0 on success, a negative errno on failure. Output arguments
 *              come last and are written on success only, but for arrays named
 *              `status`, whose contents after a failed call mean nothing unless
 *              the function says so. The reason of a failure is logged once,
 *              where it was found, with the value; warnings and errors go to
 *              stderr until kvh_log_set. Beside the errors a function names, any
 *              may return -ENOMEM (no memory for bookkeeping: nothing was done),
 *              -EINVAL (unknown flags, a wrong `size`), -EPERM (in a child of
 *              fork) and -ESHUTDOWN (kvh_engine_close has begun). Pointers are
 *              not NULL where nothing says that they may be.
 *   units      sizes, strides and offsets are bytes, times are nanoseconds.
 *   ownership  arguments are borrowed until the call returns. The exceptions
 *              are the arrays of a job that say so (`status`, `leases`): they
 *              are the library's until the job's terminal event was taken
 *              from its queue.
 *   threads    an engine may be used from any thread; a queue from one thread
 *              at a time. No call waits for a device, a disk or the network,
 *              but kvh_engine_open, kvh_pool_register, kvh_queue_wait,
 *              kvh_queue_close and kvh_engine_close.
 *   values     spaces, pools, jobs and leases are 64-bit values, 0 is none.
 *              They stand for no address, so that they can mean the same in
 *              another process; today an engine serves the one that opened it.
 *   structs    those with `size` are filled by their _init function first, which
 *              sets it (status structs: the caller sets it to sizeof). Once
 *              released, fields are only added at the end, and zero means what
 *              it meant before. A size that this library does not know is
 *              -EINVAL.
 */
#ifndef KVHOIST_H
#define KVHOIST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_API __attribute__((visibility("default")))

#define KVH_VERSION_MAJOR 0
#define KVH_VERSION_MINOR 1
#define KVH_VERSION_PATCH 0

struct kvh_engine;  /* opaque; kvh_engine_open, _close */
struct kvh_queue;   /* opaque; kvh_queue_open, _close */
struct CUstream_st; /* cudaStream_t points to this */
struct CUevent_st;  /* cudaEvent_t points to this */

typedef uint64_t kvh_space_t;
typedef uint64_t kvh_pool_t;
typedef uint64_t kvh_job_t;
typedef uint64_t kvh_lease_t;

#define KVH_NONE        UINT64_C(0) /* no space, pool, job or lease */
#define KVH_PAGE_NONE   UINT32_MAX  /* a page that is not to be moved */
#define KVH_RANK_ANY    UINT32_MAX  /* the rank of a replicated group's keys */
#define KVH_LAYER_ALL   UINT32_MAX
#define KVH_PENDING     1 /* the status of a chunk that is not settled yet */
#define KVH_GROUPS_MAX  16u
#define KVH_PLANES_MAX  4096u /* of a space, all groups together */
#define KVH_L2_MAX      16u   /* adapters of an engine */
#define KVH_DEVICES_MAX 64u   /* devices of an engine */

/* "0.1.0 (cuda 13.0)" or "0.1.0 (no cuda)". Static. */
KVH_API const char *kvh_version(void);

/* ---- log -------------------------------------------------------------- */

enum kvh_log_level { KVH_LOG_ERROR, KVH_LOG_WARN, KVH_LOG_INFO, KVH_LOG_DEBUG };

/* Takes every line instead of stderr, from any thread; NULL restores stderr.
 * `line` has no newline and is valid during the call. The only callback there
 * is: it must not call the library. */
KVH_API void kvh_log_set(void (*sink)(void *arg, enum kvh_log_level level, const char *line),
			 void *arg, enum kvh_log_level up_to);

/* ---- engine ----------------------------------------------------------- */

struct kvh_engine_opts {
	size_t size;
	/* "auto": a GPU if there is one, else the host. "host", "cuda", "cuda:N".
	 * NULL is "auto". Several, separated by commas, "cuda:0,cuda:2", or "cuda:*",
	 * all GPUs there are; "host,host" for tests. No GPU that is not named is
	 * touched. L1 is one, pinned for all of them. */
	const char *device;
	uint64_t l1_bytes;       /* pinned memory for frames, >= 1 MiB; rounded down to a
				  * multiple of 2 MiB, but 2 MiB at least */
	uint64_t l1_piece_bytes; /* registered at once, 2 MiB..1 GiB; 0: 1 GiB */
	/* Adapters in order of preference, each "name:PATH,option=value,...", as
	 * docs/adapters.md lists them. The same name and path twice is -EEXIST. */
	const char *const *l2;
	uint32_t n_l2; /* 0..KVH_L2_MAX */
	/* Which chunks go from L1 to which adapters, and when: "default", all to all at
	 * once; "buffer-only", and they leave L1 when every adapter has answered;
	 * "second-use", those that are stored again or loaded; "whole-prefix", those of
	 * full-attention groups; "deferred-windows", of windowed and state groups what
	 * the turn's end leaves; "write-back", what L1 evicts; or one that was
	 * registered (kvh_policy_register). NULL: "default". */
	const char *policy;
	/* Background eviction starts above `high` and stops below `low`, in
	 * percent of l1_bytes, 0 < low < high <= 100; both 0: 95 and 90. */
	uint32_t watermark_high_pct;
	uint32_t watermark_low_pct;
	int32_t numa_node;       /* of L1; -1: the device's own; of several, in turn */
	uint32_t workers;        /* threads for checksums, 1..64; 0: 2 */
	uint64_t stage_bytes;    /* of one stage in device memory, 64 KiB..1 GiB; 0: 32 MiB */
	uint64_t l2_deadline_ns; /* an L2 request that takes longer has failed; 0: 30 s */
	uint32_t l2_retries;     /* of a failed PUT, with backoff, 0..16; default 2 */
	uint64_t l2_queue_bytes; /* frames waiting for one adapter; beyond, they are dropped and
				  * counted; 0: half of l1_bytes */
	uint64_t health_bound_ns; /* a thread that works for longer is ill; 0: 750 ms */
	/* Which of the adapters that have a chunk a prefetch reads from: "first", in their
	 * order; "fastest", by what was measured. NULL: "first". */
	const char *prefetch_plan;
	uint64_t prefetch_read_bytes; /* read from one adapter at once; 0: an eighth of l1_bytes
				       */
	uint64_t prefetch_hedge_ns;   /* then another adapter is asked, too; 0: as measured */
	uint32_t prefetch_speculate;  /* chunks read ahead of a prompt, 0..64; 0: none */
	uint32_t l2_breaker; /* failures in a row after which an adapter is left alone until it
			      * answers again, 1..1000000; 0: 8 */
	const char *l1_eviction; /* "lru", "s3-fifo", "arc"; NULL: "lru" */
	uint64_t l1_lease_ns;    /* how long leases last of which nothing else is said, if
				  * no load uses them; 0: until they are released;
				  * kvh_engine_opts_init: 10 min */
	/* What each space may have that is opened from now on, until kvh_space_limits_set
	 * says otherwise. 0: no limit. */
	uint64_t space_l1_soft_bytes, space_l1_hard_bytes;
	uint64_t space_l2_soft_bytes, space_l2_hard_bytes;
	uint64_t store_bytes_per_s; /* what stores may take of a GPU's link; 0: no cap */
	/* While copies are on the way, the GPU's thread looks for so long before it
	 * sleeps: events come sooner, for a core. 0: it sleeps at once. */
	uint64_t gpu_spin_ns;
	uint32_t l1_pin_wait; /* 1: open returns when all of L1 is pinned; 0: when the first
			       * piece is, and the engine pins the rest behind it */
	/* How pages cross a GPU's link: "staged", packed by kernels; "direct", by copies
	 * alone, where a page is one piece a plane; "auto", or NULL: for each pool the one
	 * that is faster, and direct where both are the same. */
	const char *gpu_way;
	uint32_t gpu_calibrate; /* 1: "auto" measures both when a pool is registered, a moment
				 * for each shape of pages; 0: it goes by a table of rates;
				 * kvh_engine_opts_init: 1 */
	uint32_t store_gentle;  /* 1: stores go direct where pages have rows of 16 KiB and more
				 * at one stride, even where that is slower: a model that
				 * computes meanwhile loses nothing but the link; 0: as loads */
	uint32_t gpu_stages;    /* stages a direction, 1..16; 0: 3 */
	uint32_t gpu_burst;     /* CTAs of a packing kernel at most; 0: as many as it has work
				 * for: the whole GPU, for a moment */
};
KVH_API void kvh_engine_opts_init(struct kvh_engine_opts *opts, size_t size);

/* Maps L1 and pins its first piece, or all of it (l1_pin_wait), opens the adapters
 * (which may scan a disk), and starts the threads. What is pinned later is used as it
 * comes; a piece that cannot be pinned then ends pinning: the engine stays as it is,
 * its health says so, and kvh_status how much is missing.
 * -EINVAL  an option is out of range or of unknown name: see the log
 * -ENODEV  the device asked for is not there (never from "host")
 * -ENOMEM  L1 could not be mapped or pinned: memlock, cgroup or node too small
 * -EEXIST  two L2 specs name the same adapter and path
 * others   as an adapter's open reports; the log says which adapter */
KVH_API int kvh_engine_open(const struct kvh_engine_opts *opts, struct kvh_engine **engine_p);

/* Changes an option while the engine runs, by the name and in the text that a
 * configuration has; docs/configuration.md says which are live. What it affects is
 * what comes after. The change is checked with all other options first: where it
 * is refused, the old value stays in force, and the log says why. Waits for other
 * changes, not for work.
 * -EINVAL no such option, or its value is not allowed, alone or beside the others
 * -EBUSY  the option is not live */
KVH_API int kvh_engine_set(struct kvh_engine *engine, const char *name, const char *value);
/* The value in force, as kvh_engine_set takes it; of l2.adapters see
 * kvh_l2_status_get. Cut to `size`, with a NUL; returns its whole length.
 * -EINVAL no such option */
KVH_API int kvh_engine_get(struct kvh_engine *engine, const char *name, char *value,
			   size_t size);

/* Stops taking work (-ESHUTDOWN), lets stores that wait for L2 finish for at
 * most `drain_ns`, cancels the rest, waits for enqueued device copies, returns
 * every lease and frees everything, the engine's queues too: no events come any
 * more, and the arrays of jobs are the caller's again. Waits; all other calls on
 * the engine and its queues must have returned. NULL is fine.
 * 0, or -ETIMEDOUT: an adapter kept a buffer beyond its deadline; that memory
 * is left mapped, and counted in the log. The engine is gone either way. */
KVH_API int kvh_engine_close(struct kvh_engine *engine, uint64_t drain_ns);

/* ---- configuration ---------------------------------------------------- */

/* The options of an engine by name, as docs/configuration.md lists them: from a
 * JSON file, overridden by the environment (KVHOIST_L1_BYTES is l1.bytes),
 * overridden by what a program takes as flags, in whatever order they are read.
 * Every name and value is checked where it is read, and every error logged with
 * its place, the value and what is allowed, or the nearest name. After an error
 * the rest is still read, so that all are named, but kvh_config_opts refuses.
 * One thread at a time; needs no engine. */
struct kvh_config;

/* All defaults. */
KVH_API int kvh_config_open(struct kvh_config **config_p);
/* NULL is fine. Options that kvh_config_opts gave point to it. */
KVH_API void kvh_config_close(struct kvh_config *config);
/* One file. NULL: the one that KVHOIST_CONFIG names, if it names one.
 * -EINVAL  no JSON, an unknown or double name, a value that is not allowed
 * -EEXIST  a file was read before
 * -EFBIG   more than 1 MiB; others: it cannot be read */
KVH_API int kvh_config_file(struct kvh_config *config, const char *path);
/* Every variable that begins with KVHOIST_; one that is no option is an error. */
KVH_API int kvh_config_env(struct kvh_config *config);
/* A flag's. An adapter is added to those of earlier calls. */
KVH_API int kvh_config_set(struct kvh_config *config, const char *name, const char *value);
/* Checks what belongs together and fills *opts in. Its pointers are the
 * configuration's, until that closes; kvh_engine_open copies.
 * -EINVAL  also when a call before has refused something
 * -EEXIST  two adapters have one path */
KVH_API int kvh_config_opts(struct kvh_config *config, struct kvh_engine_opts *opts);

struct kvh_config_value {
	size_t size;
	const char *name;     /* "l1.bytes", "l2.adapters[0]" */
	const char *value;    /* in force, also a default; "" is none */
	const char *origin;   /* "default", "FILE:LINE", "KVHOIST_L1_BYTES", "flag" */
	const char *fallback; /* the default, or how it is derived */
	const char *allowed;
	const char *help;
	uint32_t live;   /* kvh_engine_set takes it */
	uint32_t number; /* the value is a number, a size, a duration, yes or no */
};
/* Of all options, one an index; the texts live until the next call on the
 * configuration. -ENOENT there are no more. */
KVH_API int kvh_config_value_get(struct kvh_config *config, uint32_t index,
				 struct kvh_config_value *value);

/* ---- space: what makes bytes interchangeable -------------------------- */

enum kvh_group_kind {
	KVH_GROUP_FULL,   /* attention over the whole prefix */
	KVH_GROUP_WINDOW, /* attention over the last `window_tokens` */
	KVH_GROUP_STATE,  /* one state stands for the whole prefix */
};

enum kvh_format {
	KVH_FORMAT_NATIVE,   /* each page as the pool has it, gaps left out: longest runs */
	KVH_FORMAT_PORTABLE, /* token-major, heads in order: any pool of the same shapes */
};

enum kvh_plane_kind {
	KVH_PLANE_TOKENS, /* tokens x heads x head_bytes a page */
	KVH_PLANE_OPAQUE, /* page_bytes a page, meaning unknown */
};

enum kvh_order {
	KVH_ORDER_NHD, /* a token's heads lie together: token_stride >= head_stride */
	KVH_ORDER_HND, /* a head's tokens lie together: head_stride >= token_stride */
};

/* What a plane holds, wherever it lies. Planes with one `layer` are loaded
 * together, and kvh_load_wait waits for a layer. */
struct kvh_plane_shape {
	uint32_t kind;       /* enum kvh_plane_kind */
	uint32_t layer;      /* not smaller than that of the plane before, in its group */
	uint32_t heads;      /* TOKENS: >= 1 */
	uint32_t head_bytes; /* TOKENS: bytes of one head of one token, >= 1 */
	uint32_t order;      /* enum kvh_order; ignored (not hashed) in a portable group */
	uint32_t reserved;   /* 0 */
	uint64_t page_bytes; /* OPAQUE: >= 1; else 0 */
};

/* Planes cached together. A chunk's payload is, for each plane in order, for
 * each of its chunk_tokens / page_tokens pages, that page's bytes of the plane
 * (page_tokens * heads * head_bytes, or page_bytes). A state group has one page
 * a chunk, whatever page_tokens says. */
struct kvh_group_desc {
	uint32_t kind;          /* enum kvh_group_kind */
	uint32_t format;        /* enum kvh_format */
	uint32_t page_tokens;   /* divides chunk_tokens */
	uint32_t window_tokens; /* WINDOW: >= 1; else 0 */
	uint32_t replicated;    /* 1: all ranks hold the same bytes, keys have KVH_RANK_ANY */
	uint32_t n_planes;
	const struct kvh_plane_shape *planes;
};

/* Bytes are served only to a space whose every field is equal. Strings may be
 * NULL, which is "". */
struct kvh_space_desc {
	size_t size;
	const char *model;     /* name or path, as the runtime knows it */
	const char *revision;  /* commit or digest of the weights */
	const char *dtype;     /* effective, e.g. "bf16" or "fp8_e4m3" */
	const char *quant;     /* scheme and its parameters */
	const char *runner;    /* runtime and attention back end, where they decide bytes */
	const char *hash_algo; /* of the prefix hash, e.g. "sha256-cbor" */
	const char *hash_seed;
	const void *salt; /* the tenant's; only ever hashed */
	size_t salt_len;
	uint32_t chunk_tokens;
	uint32_t layers;    /* of the whole model */
	uint32_t heads;     /* KV heads of the whole model */
	uint32_t head_size; /* elements */
	uint32_t tp_size;   /* >= 1 */
	uint32_t pp_size;   /* >= 1 */
	uint32_t n_groups;  /* 1..KVH_GROUPS_MAX */
	const struct kvh_group_desc *groups;
};
KVH_API void kvh_space_desc_init(struct kvh_space_desc *desc, size_t size);

/* Opening the same descriptor again gives the same value, in any process: it
 * is the first 8 bytes of the SHA-256 of the canonical descriptor. Spaces live
 * as long as the engine.
 * -EINVAL  a field is out of range
 * -EEXIST  another descriptor has this id (32 bytes are compared)
 * -ENOSPC  the options limit spaces, and there are more than 4,095 */
KVH_API int kvh_space_open(struct kvh_engine *engine, const struct kvh_space_desc *desc,
			   kvh_space_t *space_p);

/* Payload bytes of a chunk of the group, without header and padding.
 * -ENOENT  no such space or group */
KVH_API int64_t kvh_space_chunk_bytes(struct kvh_engine *engine, kvh_space_t space,
				      uint32_t group);

/* What a space may have. 0: no limit. */
struct kvh_space_limits {
	size_t size;
	uint64_t l1_soft_bytes; /* what is above goes first when memory is short */
	uint64_t l1_hard_bytes; /* never exceeded: frames of its own go, or -EDQUOT */
	uint64_t l2_soft_bytes; /* the same in each adapter that has limits */
	uint64_t l2_hard_bytes;
	uint32_t pinned; /* 1: its frames are not evicted for others; needs l1_hard_bytes */
	uint32_t reserved;
};
KVH_API void kvh_space_limits_init(struct kvh_space_limits *limits, size_t size);

/* From now on. What is above a new hard limit is evicted at once, or, where it is
 * leased, as soon as it can go.
 * -EINVAL  a soft limit above the hard one; an L1 limit above L1's bytes; pinned
 *          without l1_hard_bytes, or all pinned spaces together above L1's bytes:
 *          the limits stay as they were; the log has both values
 * -ENOENT  no such space
 * -ENOSPC  more than 4,095 spaces */
KVH_API int kvh_space_limits_set(struct kvh_engine *engine, kvh_space_t space,
				 const struct kvh_space_limits *limits);

/* ---- keys ------------------------------------------------------------- */

/* The runtime's hash of the prefix that ends with the chunk; of a longer one, its
 * first 16 bytes. Equal hashes of a space are taken for equal prefixes, so it has
 * to be one that nobody can make collide. */
struct kvh_hash {
	uint8_t bytes[16];
};

struct kvh_key {
	struct kvh_hash hash;
	kvh_space_t space;
	uint32_t rank;  /* or KVH_RANK_ANY, exactly for replicated groups */
	uint32_t group; /* index in the space */
};

/* ---- store policy ----------------------------------------------------- */

/* What a policy is told of a chunk, during the call. */
struct kvh_policy_chunk {
	const struct kvh_key *key;
	const struct kvh_hash *parent; /* zero: the first of a prompt */
	uint64_t bytes;                /* of its frame */
	uint32_t kind;                 /* enum kvh_group_kind of its group */
	uint32_t window_chunks;        /* of a windowed group; else 0 */
	uint32_t used;                 /* 0: just stored to L1; 1: loaded from there */
	uint32_t reserved;
};

enum kvh_admit {
	KVH_ADMIT_NO,       /* stays in L1 only */
	KVH_ADMIT_NOW,      /* goes to the targets */
	KVH_ADMIT_TURN_END, /* when its prompt has not grown beyond its window by the turn's
			     * end; if it has, never. A turn ends with kvh_flush, or when
			     * the prompt has not grown for 5 s; L1 may evict it before */
	KVH_ADMIT_EVICTION, /* when L1 evicts it, and not before */
};

#define KVH_POLICY_VERSION 1u
#define KVH_POLICY_RETAIN  1u /* what was prefetched stays in L1 after its last lease */
#define KVH_POLICY_USES    2u /* admit is asked for chunks that are loaded, too */

/* Decides which chunks go from L1 to which adapters, and when. The functions run
 * on the engine's own thread: they must not wait, nor call the library. An answer
 * that makes no sense (an adapter that is not there) is counted, `policy_wrong`,
 * and left out. */
struct kvh_policy {
	uint32_t version; /* KVH_POLICY_VERSION; another is refused */
	uint32_t flags;   /* KVH_POLICY_* */
	const char *name; /* not copied */
	void *arg;        /* for open; without open it is `self` */
	/* Optional: one a engine, on its opener's thread. 0, or a negative errno. */
	int (*open)(void *arg, void **self_p);
	void (*close)(void *self); /* optional */
	/* After a chunk was stored to L1: enum kvh_admit. */
	uint32_t (*admit)(void *self, const struct kvh_policy_chunk *chunk);
	/* The adapters that get it, a bit each of `adapters`, which are those there are. */
	uint32_t (*targets)(void *self, const struct kvh_policy_chunk *chunk,
			    uint32_t adapters);
	/* After all of `targets` have answered; `stored` are those that have it now. 1: it
	 * leaves L1 with its last lease. Not asked where there was no target. */
	uint32_t (*deletes)(void *self, const struct kvh_policy_chunk *chunk, uint32_t targets,
			    uint32_t stored);
};

/* Adds a policy that engines can then be opened with, by name. The struct is
 * copied. For good: there is no way to take it back.
 * -EEXIST there is one of that name, -EPROTONOSUPPORT another version, -EINVAL a
 * name or function is missing, -ENOSPC 32 have been added */
KVH_API int kvh_policy_register(const struct kvh_policy *policy);

/* ---- queue ------------------------------------------------------------ */

enum kvh_event_type {
	KVH_EVENT_PACKED, /* store: the pages have been read and may be overwritten */
	/* prefetch: what L1 and L2 say they have; no promise. Not before a deadline or
	 * cancel that comes first */
	KVH_EVENT_FOUND,
	/* store: every adapter has answered, well or badly, for every chunk whose
	 * status is 0; kvh_store_opts.outcomes and kvh_l2_status say how */
	KVH_EVENT_PERSISTED,
	KVH_EVENT_DONE, /* terminal: the last event of the job */
};

/* The device died while the job's pages were written: their bytes are lost. */
#define KVH_EVENT_PAGES_LOST 1u

struct kvh_event {
	kvh_job_t job;
	uint64_t user_data; /* as given with the job */
	uint32_t type;      /* enum kvh_event_type */
	/* 0, or the first error of a chunk or of the job. A chunk that need not be
	 * stored (-EEXIST, -EINPROGRESS) or is nowhere to erase (-ENOENT) is none. */
	int32_t status;
	uint32_t n_ok;   /* chunks whose status is 0 */
	uint32_t usable; /* prefetch: chunks of the usable prefix; kvh_l2_add: the index */
	uint32_t flags;  /* KVH_EVENT_* */
	uint32_t reserved;
};

/* A queue takes the events of the jobs started on it, and is the client that
 * their leases belong to. `capacity` jobs, 1..65536, may be outstanding: from
 * start until the terminal event was polled. Beyond, jobs are refused with
 * -EAGAIN; events are never lost. A queue holds at most 2^20 leases.
 * -EINVAL capacity, -EMFILE 4096 queues are open, or no eventfd is left */
KVH_API int kvh_queue_open(struct kvh_engine *engine, uint32_t capacity,
			   struct kvh_queue **queue_p);

/* Readable when there may be events: poll, then take them all. Spurious
 * wake-ups happen. The queue's, until it closes; never read or write it. */
KVH_API int kvh_queue_fd(const struct kvh_queue *queue);

/* Takes up to `max` events; returns how many, 0 if there are none. */
KVH_API int kvh_queue_poll(struct kvh_queue *queue, struct kvh_event *events, uint32_t max);

/* The same, but waits for the first, at most timeout_ns (UINT64_MAX: for
 * ever). -ETIMEDOUT, or -EINTR. */
KVH_API int kvh_queue_wait(struct kvh_queue *queue, struct kvh_event *events, uint32_t max,
			   uint64_t timeout_ns);

/* Cancels the queue's jobs, waits until no transfer touches their pages or
 * arrays, returns all leases of the queue. NULL is fine. */
KVH_API void kvh_queue_close(struct kvh_queue *queue);

/* ---- pool: the runtime's KV memory on one device ---------------------- */

/* A piece of device memory. Planes are offsets into one, so that an IPC handle
 * can stand in for `base`. */
struct kvh_alloc {
	void *base; /* on the host device: any memory of the process */
	uint64_t bytes;
};

/* Where plane i of the space lies: byte (page p, token t, head h, d) at
 * base + offset + p*page_stride + t*token_stride + h*head_stride + d. */
struct kvh_plane {
	uint32_t alloc;    /* index */
	uint32_t reserved; /* 0 */
	uint64_t offset;   /* of page 0, token 0, head 0 */
	uint64_t page_stride;
	uint64_t token_stride; /* TOKENS; else 0 */
	uint64_t head_stride;  /* TOKENS; may be 0 with one head */
};

struct kvh_pool_desc {
	size_t size;
	kvh_space_t space;
	uint32_t rank; /* of this pool's keys */
	uint32_t n_allocs;
	const struct kvh_alloc *allocs;
	uint32_t n_planes; /* as many as the space's groups have together */
	uint32_t reserved;
	const struct kvh_plane *planes; /* group by group, in the groups' order */
	const uint32_t *group_pages;    /* [n_groups] pages of each group */
	uint8_t device_uuid[16];        /* zero: the engine's one device; of several the one
					 * that owns the memory */
};
KVH_API void kvh_pool_desc_init(struct kvh_pool_desc *desc, size_t size);

/* -EINVAL  a plane leaves its allocation, planes of one group overlap, strides
 *          do not fit the shape or its order; the log has plane and value
 * -ENOENT  no such space
 * -ENODEV  the uuid is of no device of the engine's, or that has died; or it is zero,
 *          the engine has several, and the memory is not on one of them; the log
 *          says which there are
 * -ENOMEM  no device memory for stages */
KVH_API int kvh_pool_register(struct kvh_engine *engine, const struct kvh_pool_desc *desc,
			      kvh_pool_t *pool_p);

/* A job: ends when no transfer touches the pool's pages. Jobs that wait are
 * cancelled, new ones refused (-ENOENT).
 * -ENOENT no such pool, -EAGAIN the queue is full */
KVH_API int kvh_pool_unregister(struct kvh_queue *queue, kvh_pool_t pool, uint64_t user_data,
				kvh_job_t *job_p);

/* ---- store ------------------------------------------------------------ */

struct kvh_store_chunk {
	struct kvh_key key;
	struct kvh_hash parent; /* hash of the chunk before; zero: the first of a prompt */
	const uint32_t *pages;  /* [n_pages], in token order, none of them KVH_PAGE_NONE */
	uint32_t n_pages;       /* chunk_tokens / page_tokens of the group; 1 for a state */
	uint32_t reserved;
};

#define KVH_STORE_PACKED    1u /* send KVH_EVENT_PACKED */
#define KVH_STORE_PERSISTED 2u /* send KVH_EVENT_PERSISTED, and end only then */
#define KVH_STORE_LAYERS    4u /* no order point here: kvh_store_layer gives one a layer */

/* Adapters, a bit each by their index; what is in none is not there any more. */
struct kvh_store_outcome {
	uint32_t stored;  /* have it now; some maybe had it before */
	uint32_t failed;  /* were to get it: an error, a timeout, a queue without room */
	uint32_t skipped; /* the policy did not want it there, or not yet */
};

struct kvh_store_opts {
	size_t size;
	/* The order point: pages are read when this has been reached. At most one; a
	 * stream is one of the pool's device.
	 * Neither: on a GPU the legacy default stream, on the host device now. The
	 * host device has no streams of the runtime's: neither. */
	struct CUstream_st *stream;
	struct CUevent_st *event;
	uint64_t user_data;
	uint32_t flags; /* KVH_STORE_* */
	uint32_t reserved;
	/* With KVH_STORE_PERSISTED, else NULL: what became of each chunk whose status is
	 * 0. [n], the library's until the terminal event was polled; complete when
	 * KVH_EVENT_PERSISTED is there. */
	struct kvh_store_outcome *outcomes;
};
KVH_API void kvh_store_opts_init(struct kvh_store_opts *opts, size_t size);

/* Reserves a frame for each chunk, records the order point and queues the
 * copies. The job ends when every chunk is findable in L1, or has failed.
 *
 * status[i], the library's until the terminal event was polled, may be NULL:
 *   0             findable
 *   -EEXIST       was already there: nothing copied
 *   -EINPROGRESS  another store or prefetch is making it: nothing copied
 *   -ENOMEM       L1 is full of leased or unfinished frames: release some
 *   -EDQUOT       the same of the frames of a space that is at its hard limit
 *   -EAGAIN       L1 is full of frames that have to go to L2 first, and are about to
 *   -EINVAL       a frame of this size is larger than a piece of L1
 *   -ECANCELED    kvh_cancel, pool_unregister or close; or erased meanwhile
 *   -EIO          the device has failed
 * As a result of the call (nothing is enqueued, no job was made):
 *   -EINVAL  n is 0; a page is out of range; a key of another space, rank or
 *            group than the pool has; n_pages is not the group's; both order
 *            points, or one with KVH_STORE_LAYERS
 *   -EBUSY   the stream is being captured
 *   -EAGAIN  the queue is full
 *   -ENOENT  no such pool
 *   -ENODEV  the pool's device has died; pools on others go on */
KVH_API int kvh_store(struct kvh_queue *queue, kvh_pool_t pool,
		      const struct kvh_store_chunk *chunks, uint32_t n,
		      const struct kvh_store_opts *opts, int32_t *status, kvh_job_t *job_p);

/* Of a store with KVH_STORE_LAYERS: the planes of all layers up to and including
 * `layer` (KVH_LAYER_ALL: all) hold what is to be stored once the order point
 * (`stream`, `event`, or neither: as for kvh_store) has been reached. It is recorded
 * before the call returns. Layers rise; some may be left out, the same one again is
 * nothing new. What has been given is copied while the next layers are computed; the
 * job ends when all were, and until then its frames are taken. One whose layers do
 * not come holds up no other store, and ends with kvh_cancel, kvh_pool_unregister,
 * kvh_queue_close or kvh_engine_close.
 * -ENOENT  no such job, or no store by layers, or there is nothing to copy (any more)
 * -EINVAL  a layer below one that was given; both order points
 * -EBUSY   the stream is being captured
 * -EIO     the device has died */
KVH_API int kvh_store_layer(struct kvh_queue *queue, kvh_job_t job, uint32_t layer,
			    struct CUstream_st *stream, struct CUevent_st *event);

/* ---- lookup and prefetch ---------------------------------------------- */

/* A prompt's chunks. Results are about entries (chunk, group, rank), indexed
 * by KVH_ENTRY; a replicated group has its one entry at r = 0 and KVH_NONE
 * (or 0) at the others. */
struct kvh_prefix {
	kvh_space_t space;
	const struct kvh_hash *hashes; /* [n_chunks], in the prompt's order */
	uint32_t n_chunks;             /* >= 1 */
	uint32_t first_rank;
	uint32_t n_ranks;  /* >= 1 */
	uint32_t n_groups; /* must be the space's: it sizes the arrays */
};
#define KVH_ENTRY(prefix, chunk, group, r) \
	(((size_t)(chunk) * (prefix)->n_groups + (group)) * (prefix)->n_ranks + (r))
#define KVH_ENTRIES(prefix) \
	((size_t)(prefix)->n_chunks * (prefix)->n_groups * (prefix)->n_ranks)

#define KVH_IN_L1 1u
#define KVH_IN_L2 2u /* an adapter's local index says so: advice */

#define KVH_LOOKUP_LEASE 1u /* lease what is usable and in L1 */

/* What is there now. `where` [KVH_ENTRIES] gets KVH_IN_* bits; `usable_p` the
 * chunks of the longest prefix L for which all the ranks have: of full groups
 * [0, L); of windowed groups [L - w, L), w = window_tokens / chunk_tokens rounded
 * up; of state groups the chunk L - 1. It is advice and may be gone in a moment, unless
 * KVH_LOOKUP_LEASE asks: then `leases` [KVH_ENTRIES], else NULL, gets leases of this queue for
 * what is in L1 and needed for the longest prefix usable from L1 alone, and
 * usable_p is that prefix. Adapters without a local index are not asked.
 * Any of the three outputs may be NULL.
 * -EINVAL bad prefix or flags, -ENOENT no such space */
KVH_API int kvh_lookup(struct kvh_queue *queue, const struct kvh_prefix *prefix, uint32_t flags,
		       uint8_t *where, kvh_lease_t *leases, uint32_t *usable_p);

/* The same with KVH_LOOKUP_LEASE, for leases that end by themselves about lease_ns
 * from now, but not while a load uses them: one that is never followed by a load
 * holds nothing for ever. lease_ns >= 1; a lease that has ended is -ESTALE. */
KVH_API int kvh_lookup_lease(struct kvh_queue *queue, const struct kvh_prefix *prefix,
			     uint64_t lease_ns, uint8_t *where, kvh_lease_t *leases,
			     uint32_t *usable_p);

#define KVH_PREFETCH_FOUND     1u /* send KVH_EVENT_FOUND before reading */
#define KVH_PREFETCH_TEMPORARY 2u /* what is read for it leaves L1 with its last lease */
#define KVH_PREFETCH_WARM      4u /* bring it into L1, and lease nothing */

struct kvh_prefetch_opts {
	size_t size;
	uint64_t deadline_ns; /* from now; then the job ends with what is there. 0: none */
	uint64_t user_data;
	uint32_t flags; /* KVH_PREFETCH_* */
	uint32_t reserved;
	uint64_t lease_ns; /* from its end; then its leases end by themselves, as with
			    * kvh_lookup_lease. 0: the engine's l1_lease_ns */
};
KVH_API void kvh_prefetch_opts_init(struct kvh_prefetch_opts *opts, size_t size);

/* Brings the longest usable prefix into L1, verified, and leases it. The
 * terminal event's `usable` says how long it is; leases [KVH_ENTRIES] has a
 * lease for every entry that prefix needs and KVH_NONE elsewhere. The caller
 * releases them (or kvh_load with KVH_LOAD_RELEASE does). The event's status is
 * 0 also for a miss; -ETIMEDOUT at the deadline and -ENOMEM for want of frames
 * come with what could be had, which is the longest prefix L1 has then;
 * -ECANCELED comes with no lease. A chunk that several ask for at once is read
 * once; one that is cancelled or out of time takes it from no other.
 * With KVH_PREFETCH_WARM `leases` is NULL: the frames are held until the end, and
 * then may be evicted like any other; n_ok and usable say what was there.
 * -EINVAL bad prefix, flags or leases, -ENOENT no such space, -EAGAIN the queue is
 * full */
KVH_API int kvh_prefetch(struct kvh_queue *queue, const struct kvh_prefix *prefix,
			 const struct kvh_prefetch_opts *opts, kvh_lease_t *leases,
			 kvh_job_t *job_p);

/* ---- load ------------------------------------------------------------- */

struct kvh_load_chunk {
	kvh_lease_t lease;
	const uint32_t *pages; /* [n_pages]; KVH_PAGE_NONE: leave this one out */
	uint32_t n_pages;      /* as for store */
	uint32_t reserved;
};

#define KVH_LOAD_RELEASE 1u /* release the leases when the job ends, however it ends */

struct kvh_load_opts {
	size_t size;
	/* The order point after which the pages may be written; as for store. */
	struct CUstream_st *stream;
	struct CUevent_st *event;
	uint64_t user_data;
	uint32_t flags; /* KVH_LOAD_* */
};
KVH_API void kvh_load_opts_init(struct kvh_load_opts *opts, size_t size);

/* Enqueues all copies, layer by layer, before it returns. The pages may be
 * read by work behind kvh_load_wait, or after the terminal event. Status as
 * for store: 0, -EIO, -ECANCELED. A failed load leaves the pages undefined.
 *   -EINVAL  n is 0; a page is out of range, or named twice; the lease's chunk
 *            is of another space, group or rank than the pool; both order points
 *   -ESTALE  a lease was released; status[] (if given) has -ESTALE at those. No
 *            lease is released by a call that fails, KVH_LOAD_RELEASE or not
 *   -EBUSY   the stream is being captured
 *   -EAGAIN  the queue is full
 *   -ENOENT  no such pool
 *   -ENODEV  the device has died */
KVH_API int kvh_load(struct kvh_queue *queue, kvh_pool_t pool,
		     const struct kvh_load_chunk *chunks, uint32_t n,
		     const struct kvh_load_opts *opts, int32_t *status, kvh_job_t *job_p);

/* Makes `stream` wait until the layer's planes are in the pages. The host does
 * not wait. Valid until the job's terminal event was polled.
 * -ENOENT  no such job, or no load
 * -EINVAL  the job moves no such layer
 * -EBUSY   the stream is being captured
 * -EIO     the load has failed */
KVH_API int kvh_load_wait(struct kvh_queue *queue, kvh_job_t job, uint32_t layer,
			  struct CUstream_st *stream);

/* ---- adapters that come and go ----------------------------------------- */

/* Jobs; traffic flows on meanwhile. An adapter's index is its own until it was
 * removed, then it may be another's.
 *
 * add: opens one more, `spec` as in kvh_engine_opts; the event's `usable` is its index.
 *   Its status: -ENOSPC 16 are there, -EEXIST one of that name and path is, others as
 *   its open reports. It cannot be cancelled.
 * drain: no store is given to it from now on, loads and erases go on; ends when the
 *   stores that it had are done, and the erases that it owes. Where it does not answer
 *   any more, that is never: cancel, or remove it.
 * remove: drains at most `drain_ns`, drops what waits then, and closes it. What it
 *   holds stays on its medium. Its status: -ETIMEDOUT, it would not close: it keeps
 *   its buffers and its index.
 * The status of both: -ENOENT no such adapter; -EBUSY one of them is under way;
 * -ECANCELED, and it is draining all the same.
 * -EAGAIN the queue is full */
KVH_API int kvh_l2_add(struct kvh_queue *queue, const char *spec, uint64_t user_data,
		       kvh_job_t *job_p);
KVH_API int kvh_l2_drain(struct kvh_queue *queue, uint32_t index, uint64_t user_data,
			 kvh_job_t *job_p);
KVH_API int kvh_l2_remove(struct kvh_queue *queue, uint32_t index, uint64_t drain_ns,
			  uint64_t user_data, kvh_job_t *job_p);

/* ---- leases, erase, cancel -------------------------------------------- */

/* Gives leases back. KVH_NONE is skipped. A lease under a transfer is held
 * until that has ended. Returns 0, or -ESTALE if any was not held: those are
 * left alone, and status (may be NULL) says which. Any lease of the engine may
 * be released by any of its queues' owners. */
KVH_API int kvh_release(struct kvh_engine *engine, const kvh_lease_t *leases, size_t n,
			int32_t *status);

/* Marks chunks as used that are in L1, without leasing them, and keeps those that
 * a prefetch brought for once only. status (may be NULL): 0, -ENOENT, or
 * -EINPROGRESS: being made. Returns how many are there. */
KVH_API int kvh_touch(struct kvh_engine *engine, const struct kvh_key *keys, uint32_t n,
		      int32_t *status);

/* A job. In L1 the keys are not found any more when the call returns; leased
 * frames live until the last release. The job ends when the adapters have
 * deleted theirs: status[i] (as for store; may be NULL) is 0 or an adapter's
 * error; what was nowhere is -ENOENT.
 * -EINVAL n is 0, -EAGAIN the queue is full */
KVH_API int kvh_erase(struct kvh_queue *queue, const struct kvh_key *keys, uint32_t n,
		      uint64_t user_data, int32_t *status, kvh_job_t *job_p);

/* The same for all chunks of a space, those that L1 has when the call returns, and
 * all that the adapters have had. The event's status is 0, an adapter's error, or
 * -EOPNOTSUPP: one cannot do that; the others have done it.
 * -ENOENT no such space, -EAGAIN the queue is full */
KVH_API int kvh_space_erase(struct kvh_queue *queue, kvh_space_t space, uint64_t user_data,
			    kvh_job_t *job_p);

/* A job: ends when all that was stored before (by jobs that had ended) is in L2, or
 * could not be brought there, and the adapters that can have made it last. Chunks
 * that a policy keeps for the turn's end or for eviction go now. The event's status
 * is -EIO if a chunk stored since the flush before failed to get where it was to be.
 * -EAGAIN the queue is full */
KVH_API int kvh_flush(struct kvh_queue *queue, uint64_t user_data, kvh_job_t *job_p);

/* Asks the job to end early: what waits or is in L2 is dropped, what is on the
 * device completes. The terminal event still comes. 0, or -ENOENT if the job
 * has ended or never was. */
KVH_API int kvh_cancel(struct kvh_queue *queue, kvh_job_t job);

/* ---- status ----------------------------------------------------------- */

struct kvh_status {
	size_t size;
	/* what is now */
	uint64_t l1_bytes, l1_used_bytes;         /* pinned; frames in use */
	uint64_t l1_frames, l1_leases, l1_doomed; /* frames READY or FILLING; leases; DOOMED */
	uint64_t jobs;                            /* outstanding */
	uint64_t store_waiting;                   /* frames waiting for, or in, an adapter */
	uint64_t l2_quarantined;                  /* frames set aside for transfers that hang */
	/* since open */
	uint64_t stored_chunks, stored_bytes; /* device to L1 */
	uint64_t loaded_chunks, loaded_bytes; /* L1 to device */
	uint64_t store_exists, store_no_memory, store_failed;
	uint64_t hits_l1, hits_l2, misses; /* prefetch, by entry */
	uint64_t prefetch_wasted;          /* read from L2, then not needed or not usable */
	uint64_t reads_shared;             /* hits_l2 that a read for another served, too */
	uint64_t hedges;                   /* reads given up for another adapter's */
	/* Chunks read ahead: begun; asked for later; gone, or failed, before that. */
	uint64_t speculation_begun, speculation_hits, speculation_wasted;
	uint64_t evicted_alloc, evicted_background, erased;
	uint64_t corrupt;       /* frames from L2 that failed verification */
	uint64_t device_errors; /* jobs that it failed, and calls since it has died */
	uint64_t numa_refused;  /* L1 pieces that could not be bound to the node */
	uint64_t n_l2;          /* adapters: kvh_l2_status_get */
	uint64_t huge_bytes;    /* of L1 on huge pages asked for */
	uint64_t policy_wrong;  /* answers of the store policy that made no sense */
	/* Chunks that waited for their turn's end: outgrown, never stored; lost, L1 had
	 * evicted them. */
	uint64_t deferred_outgrown, deferred_lost;
	uint64_t evicted_quota;  /* for the hard limit of their space */
	uint64_t leases_expired; /* ended by their deadline */
	uint64_t l1_demoting;    /* now: frames evicted next, that L2 has to have first */
	uint64_t n_devices;      /* kvh_device_status_get */
	/* Of L1: what was asked for, rounded; of that, what could not be pinned and never
	 * will be (kvh_health says why); 1 while more is being pinned. */
	uint64_t l1_wanted_bytes, l1_missing_bytes, l1_pinning;
};

/* Of one device. */
struct kvh_device_status {
	size_t size;
	char label[16]; /* "cuda:2", "host:0": as in the log and in kvh_health */
	char name[96];  /* what its driver says */
	uint8_t uuid[16];
	int32_t numa_node; /* -1: not known */
	uint32_t dead;     /* 1: its pools refuse work, and it never comes back */
	/* now */
	uint64_t pools, jobs; /* registered; given to it and not ended */
	/* since open */
	uint64_t stored_chunks, stored_bytes;
	uint64_t loaded_chunks, loaded_bytes;
	uint64_t errors; /* of kvh_status's device_errors, those here */
};

/* How long something took since open. A percentile is the true one, or at most a
 * sixteenth more. */
struct kvh_latency {
	uint64_t count, sum_ns;
	uint64_t p50_ns, p90_ns, p99_ns, p999_ns, max_ns;
};

enum kvh_latency_of {
	KVH_LATENCY_STORE,    /* from the call to the terminal event */
	KVH_LATENCY_LOAD,     /* the same */
	KVH_LATENCY_PREFETCH, /* the same */
	KVH_LATENCY_ERASE,    /* the same */
	KVH_LATENCY_WORK,  /* a worker: a frame, or small ones together, sealed or verified */
	KVH_LATENCY_ROUND, /* the controller's thread: a round, without its sleep */
	KVH_LATENCIES
};
/* "store", "load", ...; NULL beyond the last. */
KVH_API const char *kvh_latency_name(uint32_t which);

/* Since open, of one space. */
struct kvh_space_status {
	kvh_space_t space;
	uint64_t stored_chunks, stored_bytes;
	uint64_t loaded_chunks, loaded_bytes;
	uint64_t store_exists, store_no_memory, store_failed;
	uint64_t hits_l1, hits_l2, misses, prefetch_wasted;
	uint64_t l1_used_bytes; /* now */
	uint64_t l1_evicted;    /* frames */
};

struct kvh_health {
	size_t size;
	uint32_t healthy; /* 1: all is well */
	uint32_t n_ill;   /* threads, devices and adapters that are not */
	char reason[120]; /* of the first */
};

enum kvh_l2_breaker { KVH_L2_CLOSED, KVH_L2_OPEN, KVH_L2_TRIAL };
enum kvh_l2_state {
	KVH_L2_GONE,    /* was removed; its counters are those of the end */
	KVH_L2_OPENING, /* kvh_l2_add */
	KVH_L2_USED,
	KVH_L2_DRAINING, /* no stores any more */
	KVH_L2_CLOSING,  /* kvh_l2_remove */
	KVH_L2_STUCK,    /* would not close */
};

struct kvh_l2_status {
	size_t size;
	char name[32];                       /* of the adapter */
	uint64_t used_bytes, capacity_bytes; /* capacity 0: not known */
	uint64_t objects;
	uint64_t inflight;
	uint64_t puts, put_bytes, put_failed, put_retried, put_dropped;
	uint64_t gets, get_bytes, get_missed, get_failed, get_corrupt;
	uint64_t hits;   /* of hits_l2, those from here */
	uint64_t hedged; /* of hedges, those that were slow here */
	uint64_t probes, deletes, delete_failed;
	uint64_t timeouts;
	uint64_t unregistered; /* pieces the adapter refused to attach */
	/* Of its circuit breaker: closed, all is well; open, requests have failed in a
	 * row (or it says that it is ill), stores are dropped, loads go elsewhere and
	 * erases wait; trial, it is being asked whether it is well again. */
	uint32_t breaker;                        /* enum kvh_l2_breaker */
	int32_t health;                          /* 0, or what the adapter says of itself */
	uint64_t breaker_opened, breaker_trials; /* times */
	uint64_t breaker_refused;                /* requests that ended because it was open */
	uint64_t waiting, waiting_bytes;         /* not with the adapter yet; bytes of stores */
	uint64_t erases_owed;                    /* told as failed, and done when it can */
	uint64_t strays;                         /* completions of requests it did not have */
	uint32_t state;                          /* enum kvh_l2_state */
	uint32_t reserved;
};

/* Copies the counters: relaxed reads, and no lock that a transfer waits for. */
KVH_API int kvh_status_get(struct kvh_engine *engine, struct kvh_status *status);
/* -ENOENT  there is no adapter of that index */
KVH_API int kvh_l2_status_get(struct kvh_engine *engine, uint32_t index,
			      struct kvh_l2_status *status);
/* In the order of the option `device`. -ENOENT  there is none of that index */
KVH_API int kvh_device_status_get(struct kvh_engine *engine, uint32_t index,
				  struct kvh_device_status *status);

/* Whether every part makes progress: 1 only if no thread has had work for longer
 * than health.bound without getting anywhere, every device lives, and every adapter
 * is in use. Asks nobody that might hang. Within a second of a change. */
KVH_API int kvh_health_get(struct kvh_engine *engine, struct kvh_health *health);

/* All of it at one time: the engine, every space, every adapter, latencies, health.
 * No lock is taken that a store or load waits for; each counter is right, and two of
 * them a moment apart. */
struct kvh_snapshot {
	struct kvh_status engine;
	struct kvh_health health;
	struct kvh_latency latency[KVH_LATENCIES];
	uint32_t n_l2, n_spaces;
	const struct kvh_l2_status *l2;
	const struct kvh_space_status *spaces; /* in no order */
	const struct kvh_device_status *devices;
	uint64_t n_devices;
};
KVH_API int kvh_snapshot_take(struct kvh_engine *engine, struct kvh_snapshot **snapshot_p);
/* NULL is fine. */
KVH_API void kvh_snapshot_free(struct kvh_snapshot *snapshot);

#ifdef __cplusplus
}
#endif
#endif /* KVHOIST_H */
