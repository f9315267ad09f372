// SPDX-License-Identifier: Apache-2.0
//
// erase_test.cc - erased keys do not come back: not from a store that was being
// sealed, put, or tried again, not from a read that was on its way, and not from
// an adapter that has not deleted yet.
#include "tests/controller_jobs.h"

namespace
{

using namespace ctl;
using N = struct kvh_adapter_counters;

Options with(std::vector<std::string> l2)
{
	Options options;

	options.l2 = std::move(l2);
	return options;
}

void expect_nowhere(Rig &rig, const struct kvh_key &key)
{
	EXPECT_EQ(rig.find(key), 0);
	for (uint32_t a = 0; a < kvh_controller_adapters(rig.controller); a++)
		EXPECT_FALSE(rig.in_l2(a, key)) << a;
}

TEST(Erase, WithNoAdapter)
{
	Rig rig;

	ASSERT_EQ(rig.store(rig.key(1)), 0);
	Erase e(rig, {rig.key(1), rig.key(2)});

	e.start().wait();
	EXPECT_EQ(e.result, (std::vector<int32_t>{0, -ENOENT}));
	EXPECT_EQ(rig.find(rig.key(1)), 0);
}

// 0 where anybody had it, -ENOENT where nobody did.
TEST(Erase, FromAllThatHaveIt)
{
	Rig rig(with({"mem:a", "mem:b"}));

	ASSERT_EQ(rig.store(rig.key(1)), 0); // everywhere
	rig.preload(0, rig.key(2));
	rig.preload(1, rig.key(3));
	rig.drain();
	Erase e(rig, {rig.key(1), rig.key(2), rig.key(3), rig.key(4)});

	e.start().wait();
	EXPECT_EQ(e.result, (std::vector<int32_t>{0, 0, 0, -ENOENT}));
	for (uint64_t i = 1; i <= 4; i++)
		expect_nowhere(rig, rig.key(i));
	for (uint32_t a = 0; a < 2; a++) {
		EXPECT_EQ(rig.count(a, &N::deletes), 4u);
		EXPECT_EQ(rig.count(a, &N::delete_failed), 0u);
		EXPECT_EQ(rig.count(a, &N::objects), 0u);
	}
}

TEST(Erase, AnAdaptersErrorIsTheStatus)
{
	for (const char *order : {"ab", "ba"}) {
		const std::string bad = "fault:bad,script=delete x*:fail=EIO,next=mem";
		Rig rig(with({order[0] == 'a' ? bad : "mem:good",
			      order[0] == 'a' ? "mem:good" : bad}));
		const uint32_t a = order[0] == 'a' ? 0 : 1;

		rig.store_wait(rig.key(1));
		Erase e(rig, {rig.key(1), rig.key(2)});

		e.start().wait();
		EXPECT_EQ(e.result, (std::vector<int32_t>{-EIO, -EIO}));
		EXPECT_EQ(rig.count(a, &N::delete_failed), 2u);
		EXPECT_EQ(rig.count(1 - a, &N::delete_failed), 0u);
		EXPECT_FALSE(rig.in_l2(1 - a, rig.key(1)));
	}
}

// ---- against a store --------------------------------------------------------

TEST(EraseStore, BeforeTheControllerHeardOfIt)
{
	Rig rig(with({"mem"}));
	Persist persist;
	std::unique_ptr<Erase> e;

	{
		LoopGate gate(rig);
		ASSERT_EQ(rig.store(rig.key(1), &persist), 0);
		e = std::make_unique<Erase>(rig, std::vector<struct kvh_key>{rig.key(1)});
		e->start();
	}
	e->wait();
	persist.count.wait();
	rig.drain();
	expect_nowhere(rig, rig.key(1));
	EXPECT_EQ(rig.count(0, &N::puts), 0u);
	EXPECT_EQ(rig.l1_stats().holds, 0u);
}

TEST(EraseStore, WhileItIsSealed)
{
	Options options = with({"mem"});

	options.workers = 1;
	Rig rig(options);
	Persist persist;
	std::unique_ptr<Erase> e;

	{
		WorkerGate gate(rig);
		ASSERT_EQ(rig.store(rig.key(1), &persist), 0);
		rig.rounds(); // the seal waits for the worker
		e = std::make_unique<Erase>(rig, std::vector<struct kvh_key>{rig.key(1)});
		e->start().wait();
		EXPECT_EQ(persist.count.now(), 0u);
	}
	persist.count.wait();
	rig.drain();
	expect_nowhere(rig, rig.key(1));
	EXPECT_EQ(rig.count(0, &N::puts), 0u);
	EXPECT_EQ(rig.count(0, &N::put_dropped), 1u);
}

TEST(EraseStore, WhileItIsPutTheDeleteFollows)
{
	Rig rig(with({"fault:a,script=put@1:hang,next=mem", "mem:b"}));
	Fault fault("a");

	ASSERT_EQ(rig.store(rig.key(1)), 0);
	fault.held(1);
	Erase e(rig, {rig.key(1)});

	e.start();
	rig.rounds();
	EXPECT_EQ(e.done.now(), 0u);
	EXPECT_EQ(fault.accepted(KVH_L2_DELETE), 0u); // waits for the put
	fault.release();
	e.wait();
	EXPECT_EQ(e.result[0], 0);
	rig.drain();
	EXPECT_EQ(rig.count(0, &N::puts), 1u);
	expect_nowhere(rig, rig.key(1));
	EXPECT_EQ(rig.l1_stats().used_bytes, 0u);
}

TEST(EraseStore, WhileItWaitsInTheQueue)
{
	Rig rig(with({"fault:a,script=put@1:hang,next=mem:x,depth=1"}));
	Fault fault("a");

	ASSERT_EQ(rig.store(rig.key(1)), 0);
	fault.held(1);
	ASSERT_EQ(rig.store(rig.key(2)), 0);
	rig.rounds();
	Erase e(rig, {rig.key(2)});

	e.start();
	fault.release();
	e.wait();
	rig.drain();
	expect_nowhere(rig, rig.key(2));
	EXPECT_TRUE(rig.in_l2(0, rig.key(1)));
}

// A backoff far longer than the test: the delete must neither wait for it nor go
// before a put that is tried again.
TEST(EraseStore, WhileItBacksOff)
{
	Options options = with({"fault:a,script=put x*:fail=EIO,next=mem"});

	options.retries = 16; // the last backoffs are minutes
	Rig rig(options);
	Persist persist;

	ASSERT_EQ(rig.store(rig.key(1), &persist), 0);
	rig.until([&] { return rig.count(0, &N::put_retried) >= 3; });
	Fault("a").script(""); // the next try would succeed
	Erase e(rig, {rig.key(1)});

	e.start().wait();
	rig.drain(); // nothing is tried any more
	EXPECT_EQ(persist.count.now(), 1u);
	EXPECT_EQ(rig.count(0, &N::puts), 0u);
	EXPECT_EQ(rig.count(0, &N::put_dropped), 1u);
	expect_nowhere(rig, rig.key(1));
	EXPECT_EQ(rig.l1_stats().used_bytes, 0u);
}

TEST(EraseStore, StoredAgainAtOnceItStays)
{
	Rig rig(with({"fault:a,script=put@1:hang,next=mem", "mem:b"}));

	ASSERT_EQ(rig.store(rig.key(1)), 0);
	Fault("a").held(1);
	Erase e(rig, {rig.key(1)});

	e.start();
	ASSERT_EQ(rig.store(rig.key(1)), 0); // a new frame, of the same key
	Fault("a").release();
	e.wait();
	rig.drain();
	EXPECT_EQ(rig.find(rig.key(1)), 1);
	for (uint32_t a = 0; a < 2; a++)
		EXPECT_TRUE(rig.in_l2(a, rig.key(1))) << a;
}

TEST(EraseStore, StoredAgainBeforeTheControllerHeardOfEither)
{
	Rig rig(with({"mem"}));

	rig.store_wait(rig.key(1));
	Erase e(rig, {rig.key(1)});

	{
		LoopGate gate(rig);
		e.start();
		ASSERT_EQ(rig.store(rig.key(1)), 0);
	}
	e.wait();
	rig.drain();
	EXPECT_EQ(rig.find(rig.key(1)), 1);
	EXPECT_TRUE(rig.in_l2(0, rig.key(1)));
}

// The index still has what a DELETE on its way will take.
TEST(EraseStore, StoredAgainWhileTheOldOneIsBeingDeleted)
{
	Rig rig(with({"fault:a,script=delete@1:hang,next=mem"}));

	rig.store_wait(rig.key(1));
	Erase e(rig, {rig.key(1)});

	e.start();
	Fault("a").held(1);
	ASSERT_EQ(rig.store(rig.key(1)), 0);
	rig.rounds();
	Fault("a").release();
	e.wait();
	rig.drain();
	EXPECT_EQ(rig.count(0, &N::puts), 2u);
	EXPECT_TRUE(rig.in_l2(0, rig.key(1)));
}

TEST(EraseStore, AfterAPutThatHangs)
{
	Log log;
	Options options = with({"fault:a,script=put@1:hang=hard,next=mem", "mem:b"});

	options.deadline_ns = KVH_NS_PER_MS;
	Rig rig(options);

	rig.store_wait(rig.key(1));
	Erase e(rig, {rig.key(1)});

	e.start().wait(); // it has a deadline of its own
	EXPECT_EQ(e.result[0], -ETIMEDOUT);
	EXPECT_FALSE(rig.in_l2(1, rig.key(1)));
	Fault("a").release();
}

TEST(EraseStore, AtRandom)
{
	const uint32_t seed = std::random_device()();
	std::mt19937 random(seed);

	SCOPED_TRACE(testing::Message() << "seed " << seed);
	for (int round = 0; round < 20; round++) {
		Log log;
		const std::string script = "put@" + std::to_string(1 + random() % 20) +
					   "x9:fail=EIO;put@" +
					   std::to_string(1 + random() % 30) +
					   "x9:reorder=3;any@" +
					   std::to_string(1 + random() % 30) + "x5:delay=3";
		Rig rig(with({"fault:a,script=" + script + ",next=mem", "mem:b"}));
		std::deque<Erase> erases;

		SCOPED_TRACE(script);
		for (uint64_t i = 0; i < 40; i++) {
			ASSERT_EQ(rig.store(rig.key(i)), 0);
			if (random() % 2 == 0)
				erases.emplace_back(rig, std::vector<struct kvh_key>{rig.key(
								 random() % (i + 1))})
					.start();
		}
		std::set<uint64_t> gone;

		for (Erase &e : erases) {
			e.wait();
			for (uint64_t i = 0; i < 40; i++) {
				const struct kvh_key key = rig.key(i);

				if (memcmp(&key, &e.keys[0], sizeof(key)) == 0)
					gone.insert(i);
			}
		}
		rig.drain();
		Fault("a").script("");
		for (uint64_t i : gone)
			expect_nowhere(rig, rig.key(i));
		EXPECT_EQ(rig.l1_stats().frames, 40 - gone.size());
		EXPECT_EQ(rig.l1_stats().holds, 0u);
	}
}

// ---- against a read ---------------------------------------------------------

TEST(ErasePrefetch, WhileItIsRead)
{
	Rig rig(with({"fault:a,script=get@1:hang,next=mem", "mem:b"}));

	for (uint32_t a = 0; a < 2; a++)
		rig.preload(a, rig.key(1));
	Prefetch p(rig, {hash_of(1)});

	p.start();
	Fault("a").held(1);
	Erase e(rig, {rig.key(1)});

	e.start().wait();
	Fault("a").release();
	p.wait();
	EXPECT_EQ(p.usable, 0u); // not from the second adapter, either
	EXPECT_EQ(p.leased(), 0u);
	expect_nowhere(rig, rig.key(1));
	EXPECT_EQ(rig.l1_stats().used_bytes, 0u);
}

// Begun after the erase left L1, before the adapter has deleted.
TEST(ErasePrefetch, BegunBeforeTheAdapterHasDeleted)
{
	Rig rig(with({"fault:a,script=delete@1:hang,next=mem"}));

	rig.store_wait(rig.key(1));
	Erase e(rig, {rig.key(1)});

	e.start();
	Fault("a").held(1);
	ASSERT_TRUE(rig.in_l2(0, rig.key(1))); // it is there to be read
	Prefetch p(rig, {hash_of(1)});

	p.start().wait();
	EXPECT_EQ(p.usable, 0u);
	Fault("a").release();
	e.wait();
	expect_nowhere(rig, rig.key(1));
}

// The same, but the read is faster than the erase's way to the controller, and
// slower than the erase.
TEST(ErasePrefetch, ReadFromBeforeToAfter)
{
	Options options = with({"mem"});

	options.workers = 1;
	Rig rig(options);

	rig.preload(0, rig.key(1));
	Prefetch p(rig, {hash_of(1)});
	Erase e(rig, {rig.key(1)});

	{
		WorkerGate gate(rig); // what was read waits to be verified
		{
			LoopGate hold(rig);
			// As by a thread that is slow between the two steps of an erase.
			e.result[0] = kvh_l1_erase(rig.l1, &e.keys[0]);
			p.start();
		}
		rig.until([&] { return rig.find(rig.key(1)) == 2; });
		kvh_controller_erase(rig.controller, &e);
		e.wait();
	}
	p.wait();
	EXPECT_EQ(e.result[0], 0);
	EXPECT_EQ(p.usable, 0u);
	rig.until([&] { return rig.metric(&kvh_metrics::prefetch_wasted) == 1; });
	expect_nowhere(rig, rig.key(1));
}

TEST(ErasePrefetch, ALeaseLivesOn)
{
	Rig rig(with({"mem"}));

	rig.store_wait(rig.key(1));
	Prefetch p(rig, {hash_of(1)});

	p.start().wait();
	ASSERT_EQ(p.usable, 1u);
	Erase e(rig, {rig.key(1)});

	e.start().wait();
	EXPECT_EQ(e.result[0], 0);
	expect_nowhere(rig, rig.key(1));
	EXPECT_TRUE(rig.shows(p.lease(0), rig.key(1)));
	p.release();
	rig.drain();
	EXPECT_EQ(rig.l1_stats().used_bytes, 0u);
}

// ---- hung deletes, cancel ---------------------------------------------------

TEST(Erase, AHungDeleteEndsAtItsDeadline)
{
	Log log;
	Options options = with({"fault:a,script=delete@1:hang=hard,next=mem", "mem:b"});

	options.deadline_ns = KVH_NS_PER_MS;
	Rig rig(options);

	rig.store_wait(rig.key(1));
	Erase e(rig, {rig.key(1), rig.key(2)});

	e.start().wait();
	EXPECT_EQ(e.result, (std::vector<int32_t>{-ETIMEDOUT, -ENOENT}));
	EXPECT_EQ(rig.metric(&kvh_metrics::l2_quarantined), 0u); // it has no buffer
	Prefetch p(rig, {hash_of(1)});

	p.start().wait(); // not read while the delete is out
	EXPECT_EQ(p.usable, 0u);
	Fault("a").release();
	rig.until([&] { return rig.count(0, &N::inflight) == 0; });
	expect_nowhere(rig, rig.key(1));
}

TEST(Erase, CancelledItEndsAndTheDeletesGoOn)
{
	Rig rig(with({"fault:a,script=delete@1:hang,next=mem", "mem:b"}));

	for (uint64_t i = 1; i <= 2; i++)
		rig.store_wait(rig.key(i));
	Erase e(rig, {rig.key(1), rig.key(2)});

	e.start();
	Fault("a").held(1);
	rig.until([&] { return rig.count(1, &N::deletes) == 2; });
	rig.until([&] { return rig.count(0, &N::deletes) == 1; });
	e.cancel();
	e.wait();
	EXPECT_EQ(e.result, (std::vector<int32_t>{-ECANCELED, 0}));
	Fault("a").release();
	rig.until([&] { return rig.count(0, &N::deletes) == 2; });
	expect_nowhere(rig, rig.key(1));
}

TEST(Erase, CloseEndsItAndTellsItsOwner)
{
	Rig rig(with({"fault:a,script=delete x*:hang,next=mem:x,depth=1", "mem:b"}));

	rig.store_wait(rig.key(1));
	Erase e(rig, {rig.key(1), rig.key(2)});

	e.start();
	Fault("a").held(1);
	EXPECT_EQ(rig.close(), 0);
	EXPECT_EQ(e.done.now(), 1u);
	EXPECT_EQ(e.result, (std::vector<int32_t>{-ECANCELED, -ECANCELED}));
}

} // namespace
