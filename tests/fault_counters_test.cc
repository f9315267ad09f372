// SPDX-License-Identifier: Apache-2.0
//
// fault_counters_test.cc - every class of failure moves its own counter, by the
// exact count, and no other (scenario X12). Each case names what it moves; all other
// counters of failures have to stay where they are.
#include "engine_harness.h"

#include <map>

namespace
{

using namespace enginetest;

using Counts = std::map<std::string, uint64_t>;

/* All that counts what went wrong. */
Counts failures(const Engine &engine)
{
	kvh_snapshot *s = nullptr;
	Counts n;

	EXPECT_EQ(0, kvh_snapshot_take(engine.get(), &s));
	n["store_exists"] = s->engine.store_exists;
	n["store_no_memory"] = s->engine.store_no_memory;
	n["store_failed"] = s->engine.store_failed;
	n["misses"] = s->engine.misses;
	n["prefetch_wasted"] = s->engine.prefetch_wasted;
	n["corrupt"] = s->engine.corrupt;
	n["device_errors"] = s->engine.device_errors;
	for (uint32_t i = 0; i < s->n_l2; i++) {
		n["put_failed"] += s->l2[i].put_failed;
		n["put_retried"] += s->l2[i].put_retried;
		n["put_dropped"] += s->l2[i].put_dropped;
		n["get_missed"] += s->l2[i].get_missed;
		n["get_failed"] += s->l2[i].get_failed;
		n["get_corrupt"] += s->l2[i].get_corrupt;
		n["delete_failed"] += s->l2[i].delete_failed;
		n["timeouts"] += s->l2[i].timeouts;
	}
	/* The spaces' are the engine's. */
	for (const char *name : {"store_failed", "misses"}) {
		uint64_t sum = 0;

		for (uint32_t i = 0; i < s->n_spaces; i++)
			sum += name[0] == 's' ? s->spaces[i].store_failed : s->spaces[i].misses;
		EXPECT_EQ(n[name], sum) << name;
	}
	kvh_snapshot_free(s);
	return n;
}

struct Rig {
	explicit Rig(const Opts &opts)
	    : engine(opts), pool(engine, desc.layout, engine.space(desc)), queue(engine)
	{
	}
	uint32_t store(uint64_t seed, uint32_t n)
	{
		const uint32_t ok = store_prompt(queue, pool, prompt(seed, n),
						 KVH_STORE_PERSISTED);

		pool.give_all();
		return ok;
	}
	/* From L2. */
	uint32_t fetch(uint64_t seed, uint32_t n)
	{
		engine.evict();
		const uint32_t usable = fetch_and_check(queue, pool, prompt(seed, n));

		pool.give_all();
		return usable;
	}

	Desc desc;
	Engine engine;
	Pool pool;
	Queue queue;
};

struct Case {
	const char *name;
	const char *script; /* of the fault adapter; "": none */
	void (*run)(Rig &rig);
	Counts moves;
	uint64_t deadline_ns = 0;
	uint64_t queue_bytes = 0;
};

void PrintTo(const Case &c, std::ostream *os)
{
	*os << c.name;
}

void store_one(Rig &rig)
{
	EXPECT_EQ(1u, rig.store(1, 1));
}

/* The control of all the others: as they do, and nothing fails. */
void store_and_fetch(Rig &rig)
{
	EXPECT_EQ(3u, rig.store(1, 3));
	EXPECT_EQ(3u, rig.fetch(1, 3));
}

void store_and_miss(Rig &rig)
{
	EXPECT_EQ(1u, rig.store(1, 1));
	EXPECT_EQ(0u, rig.fetch(1, 1));
}

void store_twice(Rig &rig)
{
	EXPECT_EQ(3u, rig.store(1, 3));
	EXPECT_EQ(0u, rig.store(1, 3));
}

void erase_one(Rig &rig)
{
	Job job;

	EXPECT_EQ(1u, rig.store(1, 1));
	ASSERT_EQ(0, rig.queue.erase(job, {rig.pool.key(0, prompt(1, 1)[0])}));
	rig.queue.finish(job);
}

void store_three(Rig &rig)
{
	EXPECT_EQ(3u, rig.store(1, 3)) << "L1 has them";
}

void miss_what_nobody_stored(Rig &rig)
{
	EXPECT_EQ(0u, rig.fetch(7, 5));
}

void copy_fails(Rig &rig)
{
	Job job;
	Log log;

	rig.engine.fail(KVH_HOST_COPY, 1, EIO);
	ASSERT_EQ(0, rig.queue.store(job, rig.pool, make_items(rig.pool, prompt(1, 2))));
	EXPECT_EQ(-EIO, rig.queue.finish(job).status);
}

/* Everything is leased: two chunks more find no room. */
void no_room(Rig &rig)
{
	std::vector<kvh_lease_t> leases;
	const kvh_status st = rig.engine.status();
	const auto frame = static_cast<uint64_t>(
		(8191 + kvh_space_chunk_bytes(rig.engine.get(), rig.pool.space, 0)) / 4096 *
		4096);
	Job full;
	Log log;

	for (uint64_t i = 0; rig.engine.status().l1_used_bytes + 16 * frame <= st.l1_bytes;
	     i++) {
		Job job;

		EXPECT_EQ(16u, rig.store(100 + i, 16));
		EXPECT_EQ(0, rig.queue.prefetch(job, prefix_of(rig.pool, prompt(100 + i, 16))));
		EXPECT_EQ(16u, rig.queue.finish(job).usable);
		leases.insert(leases.end(), job.leases.begin(), job.leases.end());
	}
	const auto room = static_cast<uint32_t>(
		(st.l1_bytes - rig.engine.status().l1_used_bytes) / frame);
	const uint32_t fit = std::min(room, 14u);

	ASSERT_EQ(0,
		  rig.queue.store(full, rig.pool, make_items(rig.pool, prompt(99, fit + 2))));
	const kvh_event end = rig.queue.finish(full);

	EXPECT_EQ(-ENOMEM, end.status);
	EXPECT_EQ(failures(rig.engine)["store_no_memory"], fit + 2 - end.n_ok);
	/* Slabs may leave less room than bytes; the rest of the case is exact. */
	rig.pool.give_all();
	Job two;

	ASSERT_EQ(0, rig.queue.store(two, rig.pool, make_items(rig.pool, prompt(98, 16))));
	EXPECT_EQ(0u, rig.queue.finish(two).n_ok) << "nothing is left";
	EXPECT_EQ(failures(rig.engine)["store_no_memory"], fit + 2 - end.n_ok + 16);
	EXPECT_EQ(0, kvh_release(rig.engine.get(), leases.data(), leases.size(), nullptr));
}

class FaultCounters : public ::testing::TestWithParam<Case>
{
};

TEST_P(FaultCounters, MovesByTheExactCountAndNoOtherMoves)
{
	const Case &c = GetParam();
	Opts opts;
	Log log;

	opts.l2 = {std::string("fault:,script=") + c.script + ",next=mem:size=64M"};
	opts.l1_bytes = 4 * MIB;
	opts.high_pct = 100;
	opts.low_pct = 99;
	opts.l2_deadline_ns = c.deadline_ns;
	opts.l2_queue_bytes = c.queue_bytes;
	Rig rig(opts);
	Counts want = failures(rig.engine);

	for (const auto &n : want)
		EXPECT_EQ(0u, n.second) << n.first << " at open";
	c.run(rig);
	for (const auto &n : c.moves)
		want[n.first] += n.second;
	Counts got = failures(rig.engine);

	for (const auto &n : want) {
		if (n.first != "store_no_memory" || c.moves.count("store_no_memory") == 0) {
			EXPECT_EQ(n.second, got[n.first]) << n.first;
		}
	}
}

INSTANTIATE_TEST_SUITE_P(
	All, FaultCounters,
	::testing::Values(
		Case{"ControlNothingFails", "", store_and_fetch, {}},
		Case{"APutFailsAlways",
		     "put x*:fail=EIO",
		     store_one,
		     {{"put_failed", 1}, {"put_retried", 2}}},
		Case{"APutFailsOnceAndIsTriedAgain",
		     "put:fail=EIO",
		     store_one,
		     {{"put_retried", 1}}},
		Case{"AGetFails",
		     "get x*:fail=EIO",
		     store_and_miss,
		     {{"get_failed", 1}, {"misses", 1}}},
		Case{"AGetMisses",
		     "get x*:fail=ENOENT",
		     store_and_miss,
		     {{"get_missed", 1}, {"misses", 1}}},
		Case{"BytesDiffer",
		     "get x*:corrupt",
		     store_and_miss,
		     {{"get_corrupt", 1}, {"corrupt", 1}, {"misses", 1}}},
		Case{"ADeleteFails", "delete x*:fail=EIO", erase_one, {{"delete_failed", 1}}},
		Case{"AGetHangs",
		     "get x*:delay=100000",
		     store_and_miss,
		     {{"timeouts", 1}, {"misses", 1}, {"get_failed", 1}},
		     200000000},
		Case{"NoRoomInTheQueue",
		     "put:delay=300",
		     store_three,
		     {{"put_dropped", 2}},
		     0,
		     1},
		Case{"WasStoredBefore", "", store_twice, {{"store_exists", 3}}},
		Case{"NobodyHasIt", "", miss_what_nobody_stored, {{"misses", 5}}},
		Case{"TheDeviceFails",
		     "",
		     copy_fails,
		     {{"store_failed", 2}, {"device_errors", 1}}},
		Case{"L1IsFullOfLeases", "", no_room, {{"store_no_memory", 0}}}),
	[](const ::testing::TestParamInfo<Case> &info) {
		return std::string(info.param.name);
	});

} // namespace
