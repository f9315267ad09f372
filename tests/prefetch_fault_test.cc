// SPDX-License-Identifier: Apache-2.0
//
// prefetch_fault_test.cc - prefetches whose reads fail, hang, come late or are not
// wanted any more: the prefix is as long as it can be, nothing is left held, and
// every failure is counted.
#include "tests/controller_jobs.h"

namespace
{

using namespace ctl;
using N = struct kvh_adapter_counters;
using M = struct kvh_metrics;

Options with(std::vector<std::string> l2, std::vector<Group> groups = {Group()})
{
	Options options;

	options.l2 = std::move(l2);
	options.groups = std::move(groups);
	return options;
}

void expect_prefix(Rig &rig, const Prefetch &p, uint32_t usable)
{
	EXPECT_EQ(p.usable, usable);
	EXPECT_EQ(p.leased(), p.n_ok);
	for (uint32_t chunk = 0; chunk < p.prefix.n_chunks; chunk++) {
		if (chunk < usable)
			EXPECT_TRUE(rig.shows(p.lease(chunk), rig.key(chunk))) << chunk;
		else
			EXPECT_EQ(p.lease(chunk), KVH_NONE) << chunk;
	}
}

// ---- reads that fail --------------------------------------------------------

TEST(PrefetchFault, TheFirstAdapterFailsTheSecondServes)
{
	Rig rig(with({"fault:a,script=get x*:fail=EIO,next=mem", "mem:b"}));

	for (uint64_t i = 0; i < 4; i++)
		for (uint32_t a = 0; a < 2; a++)
			rig.preload(a, rig.key(i));
	Prefetch p(rig, hashes(4));

	p.start().wait();
	EXPECT_EQ(p.status, 0);
	expect_prefix(rig, p, 4);
	EXPECT_EQ(rig.count(0, &N::get_failed), 4u);
	EXPECT_EQ(rig.count(0, &N::gets), 0u);
	EXPECT_EQ(rig.count(1, &N::gets), 4u);
	EXPECT_EQ(rig.metric(&M::hits_l2), 4u);
	EXPECT_EQ(rig.metric(&M::misses), 0u);
}

TEST(PrefetchFault, AllFailItIsAMiss)
{
	Rig rig(with({"fault:a,script=get@2:fail=EIO,next=mem",
		      "fault:b,script=get x*:fail=ENOENT,next=mem"}));

	for (uint64_t i = 0; i < 4; i++)
		for (uint32_t a = 0; a < 2; a++)
			rig.preload(a, rig.key(i));
	Prefetch p(rig, hashes(4));

	p.start().wait();
	EXPECT_EQ(p.status, 0);
	expect_prefix(rig, p, 1);
	EXPECT_EQ(rig.count(0, &N::get_failed), 1u);
	EXPECT_EQ(rig.count(1, &N::get_missed), 1u);
	EXPECT_EQ(rig.metric(&M::misses), 3u);
	rig.until([&] { return rig.metric(&M::prefetch_wasted) >= 2; });
	EXPECT_EQ(rig.metric(&M::prefetch_wasted), 2u); // chunks 2 and 3 were read
	EXPECT_EQ(rig.metric(&M::corrupt), 0u);
}

TEST(PrefetchFault, AnAdapterWithoutAnIndexIsAskedAndMayForget)
{
	// null says that it has nothing; what it is asked for is counted.
	Rig rig(with({"null:a", "null:b"}));
	Prefetch p(rig, hashes(10));

	p.start().wait();
	expect_prefix(rig, p, 0);
	for (uint32_t a = 0; a < 2; a++) {
		EXPECT_EQ(rig.count(a, &N::probes), 10u);
		EXPECT_EQ(rig.count(a, &N::get_missed), 0u);
	}
}

TEST(PrefetchFault, LostWakeUpsCostSweeps)
{
	Rig rig(with({"fault:a,script=get:mute,next=mem:x,depth=4"}));

	for (uint64_t i = 0; i < 10; i++)
		rig.preload(0, rig.key(i));
	Prefetch p(rig, hashes(10));

	p.start().wait();
	EXPECT_EQ(p.status, 0);
	expect_prefix(rig, p, 10);
	EXPECT_EQ(rig.count(0, &N::timeouts), 0u);
}

// ---- deadlines --------------------------------------------------------------

TEST(PrefetchDeadline, EndsWithWhatIsThere)
{
	Rig rig(with({"fault:a,next=mem"}));

	for (uint64_t i = 0; i < 6; i++)
		rig.preload(0, rig.key(i));
	Fault("a").script("get@4:hang");
	Prefetch p(rig, hashes(6));

	p.deadline_ns = kvh_deadline_ns(20 * KVH_NS_PER_MS);
	p.start().wait();
	EXPECT_EQ(p.status, -ETIMEDOUT);
	EXPECT_LE(p.usable, 3u); // reads before the fourth may be late, too
	expect_prefix(rig, p, p.usable);
	EXPECT_GE(kvh_now_ns(), p.deadline_ns);
	EXPECT_EQ(rig.metric(&M::misses), 6 - p.usable);
	Fault("a").release(); // its read goes on, for L1
	rig.until([&] { return rig.find(rig.key(3)) == 1; });
	p.release();
	EXPECT_EQ(rig.l1_stats().leases, 0u);
}

// The window of the shorter prefix was not needed for the longer one, and is in
// L1: at the deadline it is leased, or the whole prefix would be lost.
TEST(PrefetchDeadline, TheShorterPrefixGetsItsOwnWindow)
{
	Rig rig(with({"fault:a,next=mem"},
		     {{KVH_GROUP_FULL, 0, false, 40}, {KVH_GROUP_WINDOW, 2, false, 40}}));

	for (uint64_t i = 0; i < 8; i++)
		for (uint32_t g = 0; g < 2; g++)
			if (i < 6)
				rig.store_wait(rig.key(i, g));
			else
				rig.preload(0, rig.key(i, g));
	Fault("a").script("get x*:hang");
	Prefetch p(rig, hashes(8));

	p.deadline_ns = kvh_deadline_ns(20 * KVH_NS_PER_MS);
	p.start().wait();
	EXPECT_EQ(p.status, -ETIMEDOUT);
	EXPECT_EQ(p.usable, 6u);
	EXPECT_EQ(p.n_ok, 6u + 2);
	for (uint32_t chunk : {4u, 5u})
		EXPECT_TRUE(rig.shows(p.lease(chunk, 1), rig.key(chunk, 1)));
	Fault("a").release();
}

TEST(PrefetchDeadline, WhileAnAdapterIsStillAsked)
{
	Rig rig(with({"fault:a,script=probe x*:hang,next=null"}));

	for (uint64_t i = 0; i < 3; i++)
		rig.store_wait(rig.key(i));
	Prefetch p(rig, hashes(5));

	p.want_found = true;
	p.deadline_ns = kvh_deadline_ns(20 * KVH_NS_PER_MS);
	p.start().wait();
	EXPECT_EQ(p.status, -ETIMEDOUT);
	expect_prefix(rig, p, 3); // L1 is not kept waiting by it
	EXPECT_EQ(p.n_found, 0u); // it was not found out in time
	EXPECT_EQ(rig.metric(&M::hits_l1), 3u);
	EXPECT_EQ(rig.metric(&M::misses), 2u);
	Fault("a").release();
}

TEST(PrefetchDeadline, WhileAnotherIsFilling)
{
	Rig rig;
	kvh_frame filling = rig.reserve(rig.key(1));

	ASSERT_EQ(rig.store(rig.key(0)), 0);
	Prefetch p(rig, hashes(2));

	p.deadline_ns = kvh_deadline_ns(20 * KVH_NS_PER_MS);
	p.start().wait();
	EXPECT_EQ(p.status, -ETIMEDOUT);
	expect_prefix(rig, p, 1);
	kvh_l1_abort(rig.l1, filling);
}

TEST(PrefetchDeadline, ThatHasPassedAtTheStart)
{
	Rig rig(with({"mem"}));

	ASSERT_EQ(rig.store(rig.key(0)), 0);
	rig.preload(0, rig.key(1));
	Prefetch p(rig, hashes(2));

	p.deadline_ns = 1;
	p.start().wait();
	EXPECT_EQ(p.status, -ETIMEDOUT);
	expect_prefix(rig, p, 1);
	EXPECT_EQ(rig.count(0, &N::gets), 0u);
}

// ---- an adapter that hangs --------------------------------------------------

TEST(PrefetchHang, TheOtherServesAndTheBufferWaits)
{
	Log log;
	Options options = with({"fault:a,next=mem", "mem:b"});

	options.deadline_ns = KVH_NS_PER_MS;
	Rig rig(options);
	Fault fault("a");

	for (uint32_t a = 0; a < 2; a++)
		rig.preload(a, rig.key(0));
	fault.script("get@1:hang=hard");
	Prefetch p(rig, hashes(1));

	p.start().wait();
	EXPECT_EQ(p.status, 0);
	expect_prefix(rig, p, 1);
	EXPECT_EQ(rig.count(0, &N::timeouts), 1u);
	EXPECT_EQ(rig.count(0, &N::get_failed), 1u);
	EXPECT_EQ(rig.count(1, &N::gets), 1u);
	EXPECT_EQ(rig.metric(&M::l2_quarantined), 1u);
	EXPECT_EQ(rig.l1_stats().doomed, 1u); // the hung one's own frame
	EXPECT_EQ(rig.l1_stats().used_bytes, 2 * rig.frame_bytes());

	// It comes back and writes: into its own frame, which nobody else has.
	fault.release();
	rig.until([&] { return rig.metric(&M::l2_quarantined) == 0; });
	rig.rounds();
	EXPECT_EQ(rig.l1_stats().doomed, 0u);
	EXPECT_EQ(rig.l1_stats().used_bytes, rig.frame_bytes());
	expect_prefix(rig, p, 1);
}

TEST(PrefetchHang, ProbesThatHangEndAtTheirDeadline)
{
	Log log;
	Options options = with({"fault:a,script=probe x*:hang=hard,next=null", "mem:b"});

	options.deadline_ns = KVH_NS_PER_MS;
	Rig rig(options);

	rig.preload(1, rig.key(0));
	Prefetch p(rig, hashes(3));

	p.start().wait();
	EXPECT_EQ(p.status, 0);
	expect_prefix(rig, p, 1);
	EXPECT_EQ(rig.count(0, &N::timeouts), 2u); // not of what the index has
	Fault("a").release();
}

// A late read's key was erased and stored anew: its end does not harm that.
TEST(PrefetchHang, LateAfterAnEraseAndANewStore)
{
	Log log;
	Options options = with({"fault:a,next=mem", "mem:b"});

	options.deadline_ns = KVH_NS_PER_MS;
	Rig rig(options);

	rig.preload(0, rig.key(0));
	Fault("a").script("get@1:hang=hard");
	Prefetch p(rig, hashes(1));
	Erase e(rig, {rig.key(0)});
	Persist persist;

	{
		LoopGate gate(rig);
		p.start();
	}
	Fault("a").held(1);
	{
		LoopGate gate(rig);
		e.start();
		ASSERT_EQ(rig.store(rig.key(0), &persist), 0);
	}
	p.wait(); // the read is late by now
	e.wait();
	persist.count.wait();
	EXPECT_EQ(p.usable, 0u);
	EXPECT_EQ(rig.find(rig.key(0)), 1);
	Fault("a").release();
	rig.until([&] { return rig.metric(&M::l2_quarantined) == 0; });
	EXPECT_EQ(rig.find(rig.key(0)), 1);
}

// ---- cancel -----------------------------------------------------------------

TEST(PrefetchCancel, LeasesNothing)
{
	Rig rig(with({"fault:a,next=mem"}));

	ASSERT_EQ(rig.store(rig.key(0)), 0);
	rig.drain();
	for (uint64_t i = 1; i < 6; i++)
		rig.preload(0, rig.key(i));
	Fault("a").script("get@2x*:hang");
	Prefetch p(rig, hashes(6));

	p.start();
	Fault("a").held(4);
	rig.until([&] { return rig.count(0, &N::gets) == 1; });
	p.cancel();
	EXPECT_EQ(p.done.now(), 1u);
	EXPECT_EQ(p.status, -ECANCELED);
	expect_prefix(rig, p, 0);
	EXPECT_EQ(rig.l1_stats().leases, 0u);
	EXPECT_EQ(rig.metric(&M::misses), 0u);
	EXPECT_EQ(rig.metric(&M::prefetch_wasted), 1u);
	// What hung was asked to end, and did.
	rig.until([&] { return rig.count(0, &N::inflight) == 0; });
	EXPECT_EQ(rig.count(0, &N::get_failed), 0u);
	EXPECT_EQ(rig.l1_stats().frames, 2u); // the store, and the one that was read
}

TEST(PrefetchCancel, WhileProbing)
{
	Rig rig(with({"fault:a,script=probe x*:hang,next=null"}));
	Prefetch p(rig, hashes(3));

	p.start();
	Fault("a").held(3);
	p.cancel();
	EXPECT_EQ(p.status, -ECANCELED);
	Fault("a").release(); // answers to nobody
	rig.until([&] { return rig.count(0, &N::inflight) == 0; });
}

TEST(PrefetchCancel, WhileAFrameIsVerified)
{
	Options options = with({"mem"});

	options.workers = 1;
	Rig rig(options);

	rig.preload(0, rig.key(0));
	Prefetch p(rig, hashes(1));
	{
		WorkerGate gate(rig);
		p.start();
		rig.until([&] { return rig.find(rig.key(0)) == 2; });
		rig.until([&] { return rig.count(0, &N::inflight) == 0; });
		p.cancel();
		EXPECT_EQ(p.status, -ECANCELED);
	}
	rig.until([&] { return rig.find(rig.key(0)) == 1; }); // read all the same
	EXPECT_EQ(rig.metric(&M::prefetch_wasted), 1u);
	EXPECT_EQ(rig.l1_stats().leases, 0u);
}

// ---- random -----------------------------------------------------------------

std::string random_script(std::mt19937 &random)
{
	static const char *const what[] = {"fail=EIO",  "corrupt=header", "corrupt=payload",
					   "short=lie", "reorder=4",      "delay=2"};
	std::string script;

	for (int i = 0; i < 5; i++)
		script += "get@" + std::to_string(1 + random() % 60) + "x" +
			  std::to_string(1 + random() % 6) + ":" + what[random() % 6] + ";";
	return script;
}

// Two adapters that fail, lie and reorder, L1 too small for all, and several
// prefetches at once, some cancelled, some with a deadline: never a wrong byte,
// and in the end nothing is held.
TEST(PrefetchFault, RandomStorm)
{
	const uint32_t seed = std::random_device()();
	std::mt19937 random(seed);

	SCOPED_TRACE(testing::Message() << "seed " << seed);
	for (int round = 0; round < 12; round++) {
		Log log;
		Options options = with({"fault:a,next=mem", "fault:b,next=mem"});

		options.l1_bytes = 2 << 20;
		options.groups[0].head_bytes = 4000; // 30 frames
		options.policy = round % 3 == 0 ? "buffer-only" : "default";
		Rig rig(options);
		std::deque<Prefetch> all;
		std::string script[2];

		for (uint64_t i = 0; i < 60; i++)
			rig.preload(random() % 2, rig.key(i));
		for (std::string &text : script)
			text = random_script(random);
		SCOPED_TRACE(script[0] + " and " + script[1]);
		Fault("a").script(script[0].c_str());
		Fault("b").script(script[1].c_str());
		for (int i = 0; i < 12; i++) {
			all.emplace_back(rig, hashes(1 + random() % 20, random() % 40));
			if (random() % 4 == 0)
				all.back().deadline_ns = kvh_deadline_ns(random() % 5 *
									 KVH_NS_PER_MS);
			all.back().start();
			if (random() % 4 == 0)
				all[random() % all.size()].cancel();
			if (random() % 3 == 0) {
				Prefetch &done = all[random() % all.size()];

				done.wait();
				done.release();
			}
		}
		for (Prefetch &p : all) {
			p.wait();
			for (uint32_t chunk = 0; chunk < p.prefix.n_chunks; chunk++) {
				struct kvh_key key = rig.key(0);

				key.hash = p.prefix.hashes[chunk];
				if (p.lease(chunk) != KVH_NONE) {
					EXPECT_TRUE(rig.shows(p.lease(chunk), key));
				}
			}
			p.release();
		}
		EXPECT_EQ(rig.metric(&M::corrupt),
			  rig.count(0, &N::get_corrupt) + rig.count(1, &N::get_corrupt));
	}
}

} // namespace
