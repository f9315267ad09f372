/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefetch.h - what the parts of the prefetch controller share. All of it belongs
 * to the controller's thread, but for what says otherwise.
 *
 *   prefetch.c       one prefetch from start to end, and whose turn it is
 *   prefetch_plan.c  its way through the entries: find, lease, read
 *   probe.c          asking adapters that have no local index
 *   fetch.c          a chunk that somebody waits for: shared by all who do
 *   read.c           one GET of it into one frame, verified
 *   source.c         which adapter to read from: windows, speed, who is overdue
 *   speculate.c      what is likely to be asked for next
 *   settled.c        frames of others that we wait for (any thread tells)
 */
#ifndef KVH_HOST_PREFETCH_H
#define KVH_HOST_PREFETCH_H

#include "host/controller.h"
#include "host/settled.h"
#include "host/source.h"
#include "host/work.h"

#include <sys/queue.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_fetch;
struct kvh_read;
struct kvh_speculation;

/* Of kvh_prefetch.entry:
 *
 *   ABSENT <------ nobody has it, or not in time -----+-----------+
 *     | found                                         |           |
 *     +--> IN_L1 --leased---------------------------> | --> LEASED|
 *     |      | gone                                   |     ^     |
 *     |      v                                        |     |     |
 *     `--> WANTED --a fetch of it--> WAITING --arrived, or another filled it
 *
 * What turns ABSENT never comes back: a prefix only gets shorter. */
enum kvh_entry_state {
	KVH_ENTRY_ABSENT,
	KVH_ENTRY_IN_L1,
	KVH_ENTRY_WANTED, /* an adapter may have it (hits), or another is filling it */
	KVH_ENTRY_WAITING,
	KVH_ENTRY_LEASED,
};

/* Of kvh_prefetch.hits: adapters that may have the entry, a bit each; while
 * probing, those that have not, in the upper half; of LEASED ones READ and the
 * adapter's number, or 0: it was in L1. */
#define KVH_HITS_READ   (UINT32_C(1) << 31)
#define KVH_HITS_NOT(a) (UINT32_C(1) << (KVH_ADAPTERS_MAX + (a)))
#define KVH_HITS_MAYBE  ((UINT32_C(1) << KVH_ADAPTERS_MAX) - 1)

/*   FINDING --> PROBING --> LEASING --> READING --missing == 0--> ended
 *                             ^ ^----------'
 *                             '-' an entry was lost: a shorter prefix, from the start */
enum kvh_prefetch_phase {
	KVH_PREFETCH_FINDING, /* in L1 and local indexes */
	KVH_PREFETCH_PROBING,
	KVH_PREFETCH_LEASING, /* first: a frame for a read is never made of what is needed */
	KVH_PREFETCH_READING,
};

enum kvh_prefetch_place { KVH_PREFETCH_IDLE, KVH_PREFETCH_READY, KVH_PREFETCH_BLOCKED };

/* An entry of a prefetch that waits for a fetch. */
struct kvh_wait {
	struct kvh_fetch *fetch;
	struct kvh_prefetch *p;
	uint32_t entry;
	LIST_ENTRY(kvh_wait) of_fetch, of_prefetch;
};
LIST_HEAD(kvh_waits, kvh_wait);

TAILQ_HEAD(kvh_prefetches, kvh_prefetch);
TAILQ_HEAD(kvh_reads, kvh_read);

#define KVH_FETCH_BUCKETS 4096u

struct kvh_prefetcher {
	struct kvh_prefetches all;
	struct kvh_prefetches ready;   /* in turn: who has something to do */
	struct kvh_prefetches blocked; /* whose next reads have no room now */
	uint64_t deadline_ns;          /* not after the first of all deadlines */
	uint32_t client;               /* holds the leases of warm-ups while they run */

	struct kvh_fetch *fetches[KVH_FETCH_BUCKETS];
	struct kvh_reads reads; /* that are out, or being verified */
	uint64_t hedge_ns;      /* not after the first read that may be asked elsewhere */
	struct kvh_sources sources;
	struct kvh_settled settled;
	struct kvh_speculation *speculation; /* NULL: off */
};

int kvh_prefetcher_open(struct kvh_controller *c);
void kvh_prefetcher_close(struct kvh_controller *c);

/* Looks at it in the next round. */
void kvh_prefetch_mark(struct kvh_prefetch *p);
/* There is room for a read again: the blocked ones are looked at. */
void kvh_prefetch_unblock(struct kvh_controller *c);

/* ---- prefetch_plan.c ---------------------------------------------------- */

enum kvh_step {
	KVH_STEP_ON,      /* go on at once */
	KVH_STEP_LATER,   /* there is more to do, when others had their turn */
	KVH_STEP_WAIT,    /* until it is marked */
	KVH_STEP_BLOCKED, /* until there is room */
};

enum kvh_step kvh_prefetch_step(struct kvh_prefetch *p);

/* An entry that was, or was about to be, in L1 and is not: WANTED or ABSENT. */
void kvh_prefetch_entry_gone(struct kvh_prefetch *p, uint32_t entry);
/* WAITING: another has filled it, or failed to. */
void kvh_prefetch_entry_look(struct kvh_prefetch *p, uint32_t entry);
/* WAITING -> LEASED; leases[entry] was written. */
void kvh_prefetch_entry_read(struct kvh_prefetch *p, uint32_t entry, uint32_t adapter);
/* -> ABSENT */
void kvh_prefetch_entry_lost(struct kvh_prefetch *p, uint32_t entry);
/* All that is not in L1 is ABSENT from here on. */
void kvh_prefetch_expire(struct kvh_prefetch *p);

/* ---- probe.c ------------------------------------------------------------ */

/* Adapters that have to be asked, a bit each. */
uint32_t kvh_probe_askable(const struct kvh_controller *c);
/* Asks for what nobody has, a bounded number at a time. ON: all have answered. */
enum kvh_step kvh_probe_step(struct kvh_prefetch *p);
/* What is out answers to nobody. `overdue`: nor is the adapter asked again until it
 * has. */
void kvh_probe_detach(struct kvh_prefetch *p, bool overdue);

/* ---- fetch.c ------------------------------------------------------------ */

enum kvh_want {
	KVH_WANT_WAITS,   /* a fetch of it is under way: WAITING */
	KVH_WANT_IN_L1,   /* it is READY */
	KVH_WANT_LOST,    /* it cannot be had */
	KVH_WANT_BLOCKED, /* no room for a read now */
	KVH_WANT_AGAIN,   /* overtaken by another thread */
};

/* Of a WANTED entry. */
enum kvh_want kvh_fetch_want(struct kvh_prefetch *p, uint32_t entry, const struct kvh_key *key);
/* A read that nobody waits for, of a chunk that may be wanted soon. True: begun. */
bool kvh_fetch_speculate(struct kvh_controller *c, const struct kvh_space *space,
			 const struct kvh_key *key, uint32_t adapters);
/* None of p's entries waits any more. Reads that only it waited for go on, for L1,
 * or are given up. */
void kvh_fetch_detach(struct kvh_prefetch *p, bool give_up);
/* The keys are erased: what is being read of them is nobody's. */
void kvh_fetch_erase(struct kvh_controller *c, const struct kvh_key *keys, uint32_t n);
void kvh_fetch_erase_space(struct kvh_controller *c, kvh_space_t space); /* all of its keys */
/* Frames that others filled. */
void kvh_fetch_settled(struct kvh_controller *c, const struct kvh_key *key);
void kvh_fetch_settled_any(struct kvh_controller *c);

/* ---- between fetch.c and read.c ----------------------------------------- */

/* A chunk that somebody waits for, or that is read for L1. In the table by its
 * key, as long as `read` is out or somebody waits for another's frame. */
struct kvh_fetch {
	struct kvh_key key;
	struct kvh_controller *c;
	const struct kvh_space *space;
	struct kvh_read *read; /* NULL: another fills the frame, and we watch it */
	struct kvh_waits waits;
	uint32_t maybe;  /* adapters that may have it */
	uint32_t asked;  /* of them */
	uint32_t hedged; /* given up for a slow answer: asked again when all others failed */
	bool retain;     /* stays in L1 after its last lease */
	bool speculative;
	bool last;              /* hedged ones are being asked again: no more hedges */
	struct kvh_fetch *next; /* of the bucket */
};

/* Begins a GET into a FILLING frame, which is the read's until it says otherwise.
 * -ENOMEM */
int kvh_read_start(struct kvh_fetch *f, uint32_t adapter, kvh_frame frame);
/* Its frame can be found no more, and is freed when nothing touches it. */
void kvh_read_give_up(struct kvh_read *read);
/* Whether it waits for an adapter (and is not with a worker already). */
bool kvh_read_is_out(const struct kvh_read *read);
/* Reads that take too long are asked elsewhere. */
void kvh_read_hedge(struct kvh_controller *c, uint64_t now_ns);
void kvh_read_stop(struct kvh_controller *c);
void kvh_read_quarantine(struct kvh_controller *c); /* after a close that timed out */

/* Verified, FILLING. */
void kvh_fetch_arrived(struct kvh_fetch *f, kvh_frame frame, uint32_t adapter);
/* Not to be had there. `frame`: FILLING, to be used again, or 0. */
void kvh_fetch_failed(struct kvh_fetch *f, kvh_frame frame);
/* Asks another adapter if there is one. True: the read was given up. */
bool kvh_fetch_hedge(struct kvh_fetch *f, uint32_t slow);

/* ---- speculate.c -------------------------------------------------------- */

int kvh_speculation_open(struct kvh_controller *c);
void kvh_speculation_close(struct kvh_controller *c);
/* `child` followed `parent`; a parent of zeros: none. */
void kvh_speculate_learn(struct kvh_controller *c, kvh_space_t space,
			 const struct kvh_hash *parent, const struct kvh_hash *child);
/* A prefix was asked for, and is there. Any thread. */
void kvh_speculate_after(struct kvh_controller *c, const struct kvh_prefix *prefix,
			 const struct kvh_space *space);
/* Begins what there is room for. */
void kvh_speculate_tick(struct kvh_controller *c);

#ifdef __cplusplus
}
#endif
#endif
