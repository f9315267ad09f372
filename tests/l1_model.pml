/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l1.pml - the frame words, leases and places of L1, for exhaustive search: a
 * record, a writer and who evicts and erases for each key; adapters that hold
 * what was published; readers that lease and give back, twice where they err; a
 * clock that ends leases. What l1_impl.h calls "under the lock" is one atomic step
 * here, what it calls "with no lock" is a step a memory access.
 *
 * KEYS, ADAPTERS and READERS are how many; each does ROUNDS rounds. A guard is
 * taken out by its name, and then the search must find a fault:
 *
 *   NO_SWAP        a release looks, and then ends the entry: two may end it
 *   NO_GENERATION  whoever took the last count does not ask whose record it is
 *   NO_UNPARK      a frame that eviction met while it was held is not listed again
 *   NO_BEGIN       a transfer does not keep its lease from expiring
 */
#ifndef KEYS
#define KEYS 1
#endif
#ifndef ADAPTERS
#define ADAPTERS 2
#endif
#ifndef READERS
#define READERS 2
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif

mtype = { ABSENT, FILLING, READY, DOOMED, CANCELLED };

typedef record {
	mtype state;
	byte count;
	byte life;    /* generation */
	bool parked;  /* else listed, where it can be found */
	byte leases;  /* what the tables and the engine say, for comparison */
	byte holds;
	byte using;   /* transfers that touch its memory */
};
record rec[KEYS];

typedef entry {
	bool held;
	bool under;   /* a transfer uses it */
	byte life;    /* of the lease */
};
typedef entries { entry e[KEYS] };
entries table[READERS];

/* For adapters: published and not answered yet, with the frame's life. */
typedef puts { bool out[KEYS]; byte life[KEYS] };
puts put[ADAPTERS];

byte working; /* processes that have not ended */

inline became_absent(k) {
	assert(rec[k].count == 0);
	assert(rec[k].leases == 0 && rec[k].holds == 0);
	assert(rec[k].using == 0); /* memory under a transfer is never given back */
	rec[k].state = ABSENT;
	rec[k].parked = false
}

/* Takes a count back. The count and its state are one word: one access. What the
 * last one has to do comes after it, under the lock. */
inline unref(k, was_parked, was_doomed, last, mine) {
	atomic {
		assert(rec[k].count > 0);
		rec[k].count--;
		last = (rec[k].count == 0);
		was_parked = rec[k].parked;
		was_doomed = (rec[k].state == DOOMED);
		mine = rec[k].life
	}
	if
	:: last && was_doomed -> atomic { became_absent(k) }
#ifndef NO_UNPARK
	:: last && !was_doomed && was_parked ->
		atomic {
#ifndef NO_GENERATION
			if
			:: rec[k].life == mine && rec[k].state == READY && rec[k].count == 0 ->
				rec[k].parked = false
			:: else
			fi
#else
			assert(rec[k].life == mine); /* another frame's record */
			rec[k].parked = false
#endif
		}
#endif
	:: else
	fi;
	d_step { last = false; was_parked = false; was_doomed = false; mine = 0 }
}

proctype writer(byte k)
{
	byte round, a;
	bool mine;

	do
	:: round < ROUNDS + 1 ->
		round++;
		atomic {
			mine = (rec[k].state == ABSENT);
			if
			:: mine ->
				rec[k].state = FILLING;
				rec[k].count = 1;
				rec[k].life++;
				rec[k].using++
			:: else /* -EEXIST, -EINPROGRESS, or an erased one still leased */
			fi
		}
		if
		:: mine && rec[k].state == FILLING ->
			if
			:: atomic { rec[k].using--; /* publish: one swap, if it is FILLING still */
				if
				:: rec[k].state == FILLING ->
					rec[k].state = READY;
					rec[k].count = ADAPTERS;
					rec[k].holds = ADAPTERS;
					a = 0;
					do
					:: a < ADAPTERS ->
						assert(!put[a].out[k]);
						put[a].out[k] = true;
						put[a].life[k] = rec[k].life;
						a++
					:: else -> break
					od
				:: else ->
					assert(rec[k].state == CANCELLED);
					rec[k].count = 0;
					became_absent(k)
				fi }
			:: atomic { rec[k].using--; /* abort, under the lock */
				assert(rec[k].state == FILLING || rec[k].state == CANCELLED);
				rec[k].count = 0;
				became_absent(k) }
			fi
		:: mine && rec[k].state != FILLING ->
			atomic {
				assert(rec[k].state == CANCELLED);
				rec[k].using--;
				rec[k].count = 0;
				became_absent(k)
			}
		:: else
		fi
	:: else -> break
	od;
	working--
}

#if KEYS == 1
#define ANY_OUT(a) (put[a].out[0])
#elif KEYS == 2
#define ANY_OUT(a) (put[a].out[0] || put[a].out[1])
#else
#define ANY_OUT(a) (put[a].out[0] || put[a].out[1] || put[a].out[2])
#endif

proctype adapter(byte a)
{
	byte k, mine;
	bool was_parked, was_doomed, last;

	do
	:: ANY_OUT(a) ->
		if
		:: put[a].out[0] -> k = 0
#if KEYS > 1
		:: put[a].out[1] -> k = 1
#endif
#if KEYS > 2
		:: put[a].out[2] -> k = 2
#endif
		fi;
		atomic { /* accepted; or refused: then the hold ends all the same, once */
			assert(rec[k].life == put[a].life[k]);
			assert(rec[k].state == READY || rec[k].state == DOOMED);
			rec[k].using++
		};
		atomic { rec[k].using--; put[a].out[k] = false; put[a].life[k] = 0; rec[k].holds-- };
		unref(k, was_parked, was_doomed, last, mine);
		k = 0
	:: working == 0 && !ANY_OUT(a) -> break
	od
}

/* Ends an entry, by the reader or the clock: one compare-and-swap. */
inline end_entry(r, k, ended) {
#ifndef NO_SWAP
	atomic {
		ended = table[r].e[k].held;
		table[r].e[k].held = false;
		table[r].e[k].life = 0;
		if :: ended -> rec[k].leases-- :: else fi
	}
#else
	ended = table[r].e[k].held;
	atomic {
		if :: ended -> assert(rec[k].leases > 0); rec[k].leases-- :: else fi;
		table[r].e[k].held = false
	}
#endif
}

proctype reader(byte r)
{
	byte round, k, mine;
	bool was_parked, was_doomed, last, ended, got;

	do
	:: round < ROUNDS ->
		round++;
		if :: k = 0
#if KEYS > 1
		   :: k = 1
#endif
#if KEYS > 2
		   :: k = 2
#endif
		fi;
		atomic { /* a lease, under the lock */
			got = false;
			if
			:: rec[k].state == READY ->
				got = true;
				rec[k].count++;
				rec[k].leases++;
				assert(!table[r].e[k].held);
				table[r].e[k].held = true;
				table[r].e[k].life = rec[k].life
			:: else
			fi
		}
		if
		:: got -> /* a load: the hold is the engine's, begun while the lease is held */
			atomic {
				if
				:: table[r].e[k].held ->
					assert(rec[k].life == table[r].e[k].life);
#ifndef NO_BEGIN
					table[r].e[k].under = true;
#endif
					rec[k].count++;
					rec[k].holds++;
					rec[k].using++
				:: else -> got = false /* expired: -ESTALE */
				fi
			}
			if
			:: got ->
				/* the lease cannot have expired under the transfer */
				assert(table[r].e[k].held);
				atomic { rec[k].using--; rec[k].holds--; table[r].e[k].under = false }
				unref(k, was_parked, was_doomed, last, mine)
			:: else
			fi
		:: got /* a lookup only */
		:: !got
		fi;
		got = false;
		/* Given back, and once more by mistake. */
		end_entry(r, k, ended);
		if :: ended -> unref(k, was_parked, was_doomed, last, mine) :: else fi;
		end_entry(r, k, ended);
		if :: ended -> unref(k, was_parked, was_doomed, last, mine) :: else fi;
		ended = false;
		k = 0
	:: else -> break
	od;
	working--
}

/* The deadline of a lease may pass at any moment. */
proctype clock(byte r)
{
	byte k, mine;
	bool was_parked, was_doomed, last, ended;

	if :: k = 0
#if KEYS > 1
	   :: k = 1
#endif
#if KEYS > 2
	   :: k = 2
#endif
	fi;
	/* With the client locked: no transfer begins meanwhile. */
#ifndef NO_SWAP
	atomic {
		ended = table[r].e[k].held && !table[r].e[k].under;
		if :: ended -> table[r].e[k].held = false; rec[k].leases-- :: else fi
	}
#else
	ended = false;
	if :: !table[r].e[k].under -> end_entry(r, k, ended) :: else fi;
#endif
	if :: ended -> unref(k, was_parked, was_doomed, last, mine) :: else fi;
	working--
}

/* Eviction and erasing, in any order. */
proctype keeper(byte k)
{
	byte round;

	do
	:: round < ROUNDS + 1 ->
		round++;
		if
		:: true -> atomic { /* eviction meets it, if it is listed */
			if
			:: rec[k].state == READY && !rec[k].parked && rec[k].count == 0 ->
				became_absent(k)
			:: rec[k].state == READY && !rec[k].parked && rec[k].count > 0 ->
				rec[k].parked = true
			:: else
			fi }
		:: true -> atomic { /* erase */
			if
			:: rec[k].state == FILLING -> rec[k].state = CANCELLED; rec[k].parked = false
			:: rec[k].state == READY && rec[k].count == 0 -> became_absent(k)
			:: rec[k].state == READY && rec[k].count > 0 ->
				rec[k].state = DOOMED;
				rec[k].parked = false
			:: else
			fi }
		fi
	:: else -> break
	od;
	working--
}

init {
	byte i;

	atomic {
		for (i : 0 .. KEYS - 1) {
			rec[i].state = ABSENT;
			run writer(i);
			run keeper(i);
			working = working + 2
		}
		for (i : 0 .. READERS - 1) {
			run reader(i);
			run clock(i);
			working = working + 2
		}
		for (i : 0 .. ADAPTERS - 1) {
			run adapter(i)
		}
	}
	_nr_pr == 1; /* all have ended: what is left is the end */
	for (i : 0 .. KEYS - 1) {
		assert(rec[i].state == ABSENT || rec[i].state == READY);
		assert(rec[i].count == 0 && rec[i].leases == 0 && rec[i].holds == 0);
		assert(!rec[i].parked) /* eviction finds it again */
	}
}
