// SPDX-License-Identifier: Apache-2.0
//
// prefetch_test.cc - prefetches in good weather: what L1 has, what adapters have,
// what another is just writing; what groups and ranks need, and no more; what is
// leased, and that the counters are the truth.
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

// Leases for what a prefix of `usable` chunks needs, with the right bytes, and
// for nothing else.
void expect_leases(Rig &rig, const Prefetch &p, uint32_t usable)
{
	uint32_t n = 0;

	EXPECT_EQ(p.usable, usable);
	for (uint32_t chunk = 0; chunk < p.prefix.n_chunks; chunk++)
		for (uint32_t g = 0; g < p.prefix.n_groups; g++)
			for (uint32_t r = 0; r < p.prefix.n_ranks; r++) {
				const kvh_lease_t lease = p.lease(chunk, g, r);
				const bool own = r < kvh_prefix_ranks(&p.prefix, p.space, g);

				if (!own || !kvh_prefix_needs(p.space, usable, chunk, g)) {
					EXPECT_EQ(lease, KVH_NONE) << chunk << " " << g;
					continue;
				}
				struct kvh_key key;

				kvh_prefix_key(&p.prefix, p.space, chunk, g, r, &key);
				EXPECT_TRUE(rig.shows(lease, key)) << chunk << " " << g;
				n++;
			}
	EXPECT_EQ(p.n_ok, n);
}

// ---- the short way ----------------------------------------------------------

TEST(PrefetchL1, AllOfIt)
{
	Rig rig;
	uint32_t n_ok = 0;

	for (uint64_t i = 0; i < 5; i++)
		ASSERT_EQ(rig.store(rig.key(i)), 0);
	Prefetch p(rig, hashes(5));

	ASSERT_TRUE(kvh_prefetch_from_l1(rig.controller, &p, &n_ok));
	EXPECT_EQ(n_ok, 5u);
	EXPECT_EQ(p.leased(), 5u);
	EXPECT_EQ(rig.metric(&M::hits_l1), 5u);
	for (uint32_t i = 0; i < 5; i++)
		EXPECT_TRUE(rig.shows(p.lease(i), rig.key(i)));
}

TEST(PrefetchL1, NotIfOneIsMissingThenNothingIsLeased)
{
	Rig rig;
	uint32_t n_ok = 99;

	for (uint64_t i : {0u, 1u, 3u})
		ASSERT_EQ(rig.store(rig.key(i)), 0);
	Prefetch p(rig, hashes(4));

	EXPECT_FALSE(kvh_prefetch_from_l1(rig.controller, &p, &n_ok));
	EXPECT_EQ(n_ok, 99u);
	EXPECT_EQ(p.leased(), 0u);
	EXPECT_EQ(rig.l1_stats().leases, 0u);
	EXPECT_EQ(rig.metric(&M::hits_l1), 0u);
}

TEST(PrefetchL1, ThroughTheController)
{
	for (const std::vector<std::string> &l2 :
	     {std::vector<std::string>{}, std::vector<std::string>{"mem", "null"}}) {
		Rig rig(with(l2));

		for (uint64_t i = 0; i < 5; i++)
			rig.store_wait(rig.key(i));
		Prefetch p(rig, hashes(5));

		p.start().wait();
		EXPECT_EQ(p.status, 0);
		expect_leases(rig, p, 5);
		EXPECT_EQ(p.n_found, 0u); // not asked for
		EXPECT_EQ(rig.metric(&M::hits_l1), 5u);
		EXPECT_EQ(rig.metric(&M::misses), 0u);
	}
}

// ---- adapters ---------------------------------------------------------------

TEST(Prefetch, AMissIsNoError)
{
	Rig rig(with({"mem", "null"}));
	Prefetch p(rig, hashes(3));

	p.want_found = true;
	p.start().wait();
	EXPECT_EQ(p.status, 0);
	expect_leases(rig, p, 0);
	EXPECT_EQ(p.n_found, 1u);
	EXPECT_EQ(p.found_usable, 0u);
	EXPECT_EQ(rig.metric(&M::misses), 3u);
	EXPECT_EQ(rig.count(1, &N::probes), 3u); // has no index: was asked
	EXPECT_EQ(rig.count(0, &N::probes), 0u);
	EXPECT_EQ(rig.l1_stats().used_bytes, 0u);
}

TEST(Prefetch, FromL2AndTheSecondTimeFromL1)
{
	constexpr uint64_t kChunks = 50;
	Rig rig(with({"mem:a,depth=4"}));

	for (uint64_t i = 0; i < kChunks; i++)
		rig.preload(0, rig.key(i));
	Prefetch p(rig, hashes(kChunks));

	p.want_found = true;
	p.start().wait();
	EXPECT_EQ(p.status, 0);
	EXPECT_EQ(p.found_usable, kChunks);
	expect_leases(rig, p, kChunks);
	EXPECT_EQ(rig.metric(&M::hits_l2), kChunks);
	EXPECT_EQ(rig.count(0, &N::gets), kChunks);
	EXPECT_EQ(rig.count(0, &N::get_bytes), kChunks * rig.frame_bytes());
	EXPECT_EQ(rig.l1_stats().holds, 0u);
	p.release();

	Prefetch again(rig, hashes(kChunks));

	again.start().wait();
	expect_leases(rig, again, kChunks);
	EXPECT_EQ(rig.metric(&M::hits_l1), kChunks);
	EXPECT_EQ(rig.count(0, &N::gets), kChunks);
}

TEST(Prefetch, AMixture)
{
	Rig rig(with({"mem:a", "mem:b"}));

	for (uint64_t i = 0; i < 12; i++) {
		if (i % 3 == 0)
			ASSERT_EQ(rig.store(rig.key(i)), 0);
		else
			rig.preload(i % 3 == 1 ? 0 : 1, rig.key(i));
	}
	Prefetch p(rig, hashes(15));

	p.want_found = true;
	p.start().wait();
	EXPECT_EQ(p.found_usable, 12u);
	expect_leases(rig, p, 12);
	EXPECT_EQ(rig.metric(&M::hits_l1), 4u);
	EXPECT_EQ(rig.metric(&M::hits_l2), 8u);
	EXPECT_EQ(rig.metric(&M::misses), 3u);
	EXPECT_EQ(rig.count(0, &N::gets), 4u);
	EXPECT_EQ(rig.count(1, &N::gets), 4u);
}

TEST(Prefetch, NothingIsReadBehindAGap)
{
	Rig rig(with({"mem"}));

	for (uint64_t i : {0u, 1u, 3u, 4u, 5u})
		rig.preload(0, rig.key(i));
	Prefetch p(rig, hashes(6));

	p.start().wait();
	expect_leases(rig, p, 2);
	EXPECT_EQ(rig.count(0, &N::gets), 2u);
	EXPECT_EQ(rig.metric(&M::prefetch_wasted), 0u);
	EXPECT_EQ(rig.metric(&M::misses), 4u);
}

TEST(Prefetch, TheFirstAdapterIsPreferred)
{
	Rig rig(with({"mem:a", "mem:b"}));

	for (uint32_t a = 0; a < 2; a++)
		rig.preload(a, rig.key(0));
	Prefetch p(rig, hashes(1));

	p.start().wait();
	expect_leases(rig, p, 1);
	EXPECT_EQ(rig.count(0, &N::gets), 1u);
	EXPECT_EQ(rig.count(1, &N::gets), 0u);
}

TEST(Prefetch, TwoOfTheSameChunksReadThemOnce)
{
	constexpr uint64_t kChunks = 20;
	Rig rig(with({"fault:a,script=get@1:hang,next=mem"}));

	for (uint64_t i = 0; i < kChunks; i++)
		rig.preload(0, rig.key(i));
	Prefetch first(rig, hashes(kChunks)), second(rig, hashes(kChunks));

	first.start();
	second.start();
	Fault("a").held(1);
	Fault("a").release();
	first.wait();
	second.wait();
	expect_leases(rig, first, kChunks);
	expect_leases(rig, second, kChunks);
	EXPECT_EQ(rig.count(0, &N::gets), kChunks);
	EXPECT_EQ(rig.metric(&M::hits_l1) + rig.metric(&M::hits_l2), 2 * kChunks);
	EXPECT_EQ(rig.metric(&M::hits_l2), kChunks + rig.metric(&M::reads_shared));
	EXPECT_EQ(rig.count(0, &N::hits), rig.metric(&M::hits_l2));
	EXPECT_GE(rig.metric(&M::reads_shared), 1u); // the one that hung
}

// ---- chunks that another is writing -----------------------------------------

TEST(Prefetch, WaitsForAStoreThatIsFillingAndLeasesIt)
{
	Rig rig(with({"mem"}));
	kvh_frame filling = rig.reserve(rig.key(1));

	rig.preload(0, rig.key(0));
	Prefetch p(rig, hashes(2));

	p.want_found = true;
	p.start();
	rig.until([&] { return rig.count(0, &N::gets) == 1; });
	EXPECT_EQ(p.done.now(), 0u);
	EXPECT_EQ(kvh_controller_publish(rig.controller, filling, nullptr), 0);
	p.wait();
	expect_leases(rig, p, 2);
	EXPECT_EQ(p.found_usable, 2u);
	EXPECT_EQ(rig.metric(&M::hits_l1), 1u);
	EXPECT_EQ(rig.metric(&M::hits_l2), 1u);
}

TEST(Prefetch, AStoreThatFailsWhileItWaitsIsAMissOrReadFromL2)
{
	for (bool in_l2 : {false, true}) {
		Rig rig(with({"mem"}));
		kvh_frame filling = rig.reserve(rig.key(1));

		rig.preload(0, rig.key(0));
		if (in_l2)
			rig.preload(0, rig.key(1));
		Prefetch p(rig, hashes(2));

		p.start();
		rig.until([&] { return rig.count(0, &N::gets) == 1; });
		EXPECT_EQ(p.done.now(), 0u);
		kvh_l1_abort(rig.l1, filling);
		p.wait();
		EXPECT_EQ(p.status, 0);
		expect_leases(rig, p, in_l2 ? 2 : 1);
	}
}

// ---- groups and ranks -------------------------------------------------------

const std::vector<Group> kHybrid = {{KVH_GROUP_FULL, 0, false, 40},
				    {KVH_GROUP_WINDOW, 2, false, 300},
				    {KVH_GROUP_STATE, 0, false, 20}};

void preload_all(Rig &rig, uint64_t n_chunks, uint32_t n_ranks = 1)
{
	for (uint64_t i = 0; i < n_chunks; i++)
		for (uint32_t g = 0; g < rig.space->n_groups; g++)
			for (uint32_t r = 0; r < n_ranks; r++)
				if (r == 0 || !rig.space->groups[g].desc.replicated)
					rig.preload(0, rig.key(i, g, r));
}

TEST(PrefetchGroups, WindowsAndStatesReadOnlyWhatIsNeeded)
{
	Rig rig(with({"mem"}, kHybrid));

	preload_all(rig, 8);
	Prefetch p(rig, hashes(8));

	p.start().wait();
	expect_leases(rig, p, 8);
	EXPECT_EQ(p.n_ok, 8u + 2 + 1);
	EXPECT_EQ(rig.count(0, &N::gets), 11u);
	EXPECT_EQ(rig.metric(&M::hits_l2), 11u);
	EXPECT_EQ(rig.metric(&M::misses), 0u);
	EXPECT_EQ(rig.l1_stats().frames, 11u);
}

TEST(PrefetchGroups, TheLongestThatAllCanServe)
{
	Rig rig(with({"mem"}, kHybrid));

	preload_all(rig, 8);
	for (uint64_t i : {5u, 6u, 7u}) // the state is there at 5 chunks, last
		ASSERT_EQ(rig.raw(0, KVH_L2_DELETE, rig.key(i, 2)), 0);
	Prefetch p(rig, hashes(8));

	p.start().wait();
	expect_leases(rig, p, 5);
	EXPECT_EQ(rig.count(0, &N::gets), 5u + 2 + 1);
}

TEST(PrefetchGroups, ShortenedInTheMiddleTheWindowMovesBack)
{
	Rig rig(with({"fault:a,next=mem"}, kHybrid));

	preload_all(rig, 8);
	// The index has it, the medium does not give it: found out by the read.
	const struct kvh_key bad = rig.key(6, 0);
	l2test::Buffer other = rig.sealed(rig.key(99, 0));

	ASSERT_EQ(rig.raw(0, KVH_L2_PUT, bad, &other), 0);
	Log log;
	Prefetch p(rig, hashes(8));

	p.start().wait();
	EXPECT_EQ(p.status, 0);
	expect_leases(rig, p, 6); // windows of [4, 6), the state at 6
	EXPECT_EQ(rig.metric(&M::corrupt), 1u);
	EXPECT_EQ(rig.metric(&M::hits_l2), 6u + 2 + 1);
	// Read for the longer prefix, of no use for the shorter: full 7, windows 6
	// and 7, the state at 8.
	rig.until([&] { return rig.metric(&M::prefetch_wasted) >= 4; });
	EXPECT_EQ(rig.metric(&M::prefetch_wasted), 4u);
	EXPECT_EQ(rig.count(0, &N::gets), 9u + 4);
	EXPECT_FALSE(rig.in_l2(0, bad));
}

TEST(PrefetchGroups, ReplicatedIsReadOnceForAllRanks)
{
	Rig rig(with({"mem"}, {{KVH_GROUP_FULL, 0, false, 40}, {KVH_GROUP_FULL, 0, true, 60}}));

	preload_all(rig, 4, 3);
	Prefetch p(rig, hashes(4), 3);

	p.start().wait();
	expect_leases(rig, p, 4);
	EXPECT_EQ(p.n_ok, 4u * 3 + 4);
	EXPECT_EQ(rig.count(0, &N::gets), 16u);
}

TEST(PrefetchGroups, AllRanksMustHaveIt)
{
	Rig rig(with({"mem"}, {{KVH_GROUP_FULL, 0, false, 40}, {KVH_GROUP_FULL, 0, true, 60}}));

	preload_all(rig, 4, 3);
	ASSERT_EQ(rig.raw(0, KVH_L2_DELETE, rig.key(2, 0, 1)), 0);
	Prefetch all(rig, hashes(4), 3), last(rig, hashes(4), 1, 2);

	all.start().wait();
	expect_leases(rig, all, 2);
	last.start().wait(); // rank 2 alone
	expect_leases(rig, last, 4);
}

// ---- buffer-only ------------------------------------------------------------

TEST(PrefetchBufferOnly, FramesVanishWithTheirLastLease)
{
	Options options = with({"mem"});

	options.policy = "buffer-only";
	Rig rig(options);

	for (uint64_t i = 0; i < 5; i++)
		rig.store_wait(rig.key(i));
	rig.drain();
	ASSERT_EQ(rig.l1_stats().used_bytes, 0u);
	Prefetch p(rig, hashes(5)), q(rig, hashes(3));

	p.start().wait();
	expect_leases(rig, p, 5);
	EXPECT_EQ(rig.find(rig.key(0)), 1); // while it is leased
	q.start().wait();
	expect_leases(rig, q, 3);
	EXPECT_EQ(rig.count(0, &N::gets), 5u);
	p.release();
	EXPECT_EQ(rig.find(rig.key(2)), 1);
	EXPECT_EQ(rig.find(rig.key(3)), 0);
	q.release();
	EXPECT_EQ(rig.l1_stats().used_bytes, 0u);
	EXPECT_EQ(rig.l1_stats().doomed, 0u);
	EXPECT_EQ(rig.count(0, &N::puts), 5u); // what came from L2 does not go there
}

// ---- room -------------------------------------------------------------------

TEST(PrefetchRoom, WithoutMemoryThePrefixIsShorterAndSaysSo)
{
	Options options = with({"mem"});

	options.l1_bytes = 2 << 20;
	Rig rig(options);
	const uint64_t room = (2 << 20) / rig.frame_bytes();
	std::vector<std::unique_ptr<Prefetch>> leased;

	for (uint64_t i = 0; i < 40; i++)
		rig.preload(0, rig.key(i));
	for (uint64_t i = 1000; i < 1000 + room - 10; i++) { // all but 10 frames
		ASSERT_EQ(rig.store(rig.key(i)), 0);
		leased.push_back(std::make_unique<Prefetch>(
			rig, std::vector<struct kvh_hash>{hash_of(i)}));
		leased.back()->start().wait();
		ASSERT_EQ(leased.back()->usable, 1u);
	}
	Prefetch p(rig, hashes(40));

	p.start().wait();
	EXPECT_EQ(p.status, -ENOMEM);
	expect_leases(rig, p, 10);
	EXPECT_EQ(rig.metric(&M::misses), 30u);
	leased.clear();
	p.release();
	Prefetch again(rig, hashes(40)); // by evicting the others

	again.start().wait();
	EXPECT_EQ(again.status, 0);
	expect_leases(rig, again, 40);
}

// The tail is in L1 only, and the least recently used; the head's reads need
// memory. What the prefetch needs itself is not evicted for it.
TEST(PrefetchRoom, ReadsDoNotEvictWhatIsNeeded)
{
	Options options = with({"mem"});

	options.l1_bytes = 2 << 20;
	Rig rig(options);
	const uint64_t room = (2 << 20) / rig.frame_bytes();

	for (uint64_t i = 0; i < 20; i++)
		rig.preload(0, rig.key(i));
	for (uint64_t i = 20; i < 40; i++) {
		ASSERT_EQ(rig.store(rig.key(i)), 0);
		rig.drain();
		if (rig.in_l2(0, rig.key(i))) {
			ASSERT_EQ(rig.raw(0, KVH_L2_DELETE, rig.key(i)), 0);
		}
	}
	for (uint64_t i = 0; i < room - 20; i++)
		ASSERT_EQ(rig.store(rig.key(1000 + i)), 0);
	rig.drain();
	ASSERT_EQ(rig.l1_stats().used_bytes, 2u << 20);
	Prefetch p(rig, hashes(40));

	p.start().wait();
	EXPECT_EQ(p.status, 0);
	expect_leases(rig, p, 40);
}

// ---- random -----------------------------------------------------------------

Group random_group(std::mt19937 &random)
{
	Group group;

	group.kind = static_cast<enum kvh_group_kind>(random() % 3);
	if (group.kind == KVH_GROUP_WINDOW)
		group.window_chunks = uint32_t(1 + random() % 3);
	group.replicated = random() % 3 == 0;
	group.head_bytes = uint32_t(1 + random() % 400);
	return group;
}

// Any presence, any groups, in L1, in one of two adapters or nowhere: as long as
// the definition says, the right bytes, and the counters say what happened.
TEST(Prefetch, LikeTheDefinitionWhateverIsThere)
{
	const uint32_t seed = std::random_device()();
	std::mt19937 random(seed);

	SCOPED_TRACE(testing::Message() << "seed " << seed);
	for (int round = 0; round < 40; round++) {
		std::vector<Group> groups;
		const uint32_t n_chunks = uint32_t(1 + random() % 10);
		const uint32_t n_ranks = uint32_t(1 + random() % 2);
		const uint32_t missing = uint32_t(random() % 30);

		for (size_t g = 0, n = 1 + random() % 3; g < n; g++)
			groups.push_back(random_group(random));
		Rig rig(with({"mem:a", "mem:b"}, groups));
		Prefetch p(rig, hashes(n_chunks), n_ranks);
		std::vector<uint8_t> present(KVH_ENTRIES(&p.prefix));
		uint64_t in_l1 = 0, in_l2 = 0;

		for (uint32_t chunk = 0; chunk < n_chunks; chunk++)
			for (uint32_t g = 0; g < groups.size(); g++)
				for (uint32_t r = 0; r < (groups[g].replicated ? 1 : n_ranks);
				     r++)
					if (random() % 100 >= missing)
						present[KVH_ENTRY(&p.prefix, chunk, g, r)] =
							uint8_t(1 + random() % 3);
		const uint32_t want = kvh_prefix_usable(&p.prefix, p.space, present.data());

		for (uint32_t chunk = 0; chunk < n_chunks; chunk++)
			for (uint32_t g = 0; g < groups.size(); g++)
				for (uint32_t r = 0; r < n_ranks; r++) {
					const uint8_t where =
						present[KVH_ENTRY(&p.prefix, chunk, g, r)];
					const bool needed = kvh_prefix_needs(p.space, want,
									     chunk, g);

					if (where == 1)
						rig.store_wait(rig.key(chunk, g, r));
					else if (where > 1)
						rig.preload(where - 2u, rig.key(chunk, g, r));
					in_l1 += needed && where == 1;
					in_l2 += needed && where > 1;
				}
		p.start().wait();
		EXPECT_EQ(p.status, 0);
		expect_leases(rig, p, want);
		EXPECT_EQ(rig.metric(&M::hits_l1), in_l1);
		EXPECT_EQ(rig.metric(&M::hits_l2), in_l2);
		EXPECT_EQ(rig.count(0, &N::gets) + rig.count(1, &N::gets), in_l2);
		EXPECT_EQ(rig.metric(&M::prefetch_wasted), 0u);
		if (::testing::Test::HasFailure())
			break;
	}
}

} // namespace
