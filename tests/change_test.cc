// SPDX-License-Identifier: Apache-2.0
//
// change_test.cc - adapters that come and go, and settings that change, while
// chunks are stored and read: nothing is lost, and what is refused changes nothing.
#include "host/change.h"
#include "tests/controller_jobs.h"

#include <atomic>
#include <thread>

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

struct Change : kvh_change {
	Change(Rig &r, enum kvh_change_kind what, uint32_t at = 0,
	       uint64_t drain_until = UINT64_MAX)
	    : kvh_change(), rig(r)
	{
		kind = what;
		index = at;
		drain_until_ns = drain_until;
		ended = [](kvh_change *base, int result) {
			Change *change = static_cast<Change *>(base);

			EXPECT_EQ(change->done.now(), 0u) << "ended twice";
			change->status = result;
			change->done.add();
		};
	}
	Change &start()
	{
		kvh_controller_change(rig.controller, this);
		return *this;
	}
	int wait()
	{
		done.wait();
		return status;
	}
	void cancel()
	{
		rig.on_loop([this] {
			if (done.now() == 0)
				kvh_change_cancel(this);
		});
	}
	Rig &rig;
	int status = KVH_PENDING;
	Count done;
};

int add(Rig &rig, const char *text, uint32_t *index = nullptr)
{
	Change change(rig, KVH_CHANGE_ADD);
	int status;

	change.spec = text;
	status = change.start().wait();
	if (index != nullptr)
		*index = change.index;
	return status;
}

int drain(Rig &rig, uint32_t index)
{
	return Change(rig, KVH_CHANGE_DRAIN, index).start().wait();
}

int remove(Rig &rig, uint32_t index, uint64_t until = UINT64_MAX)
{
	return Change(rig, KVH_CHANGE_REMOVE, index, until).start().wait();
}

// ---- add --------------------------------------------------------------------

TEST(ChangeAdd, GetsWhatIsStoredFromThenOn)
{
	Rig rig(with({"mem:a"}));
	uint32_t index = 99;

	rig.store_wait(rig.key(1));
	ASSERT_EQ(add(rig, "mem:b", &index), 0);
	EXPECT_EQ(index, 1u);
	rig.store_wait(rig.key(2));
	EXPECT_FALSE(rig.in_l2(1, rig.key(1)));
	EXPECT_TRUE(rig.in_l2(1, rig.key(2)));
	EXPECT_TRUE(rig.in_l2(0, rig.key(2)));
}

TEST(ChangeAdd, TheFirstOne)
{
	Rig rig;

	ASSERT_EQ(add(rig, "mem:a"), 0);
	rig.store_wait(rig.key(1));
	EXPECT_TRUE(rig.in_l2(0, rig.key(1)));
	EXPECT_EQ(rig.l1_stats().holds, 0u);
}

TEST(ChangeAdd, OnesThatAreRefused)
{
	Log log;
	Rig rig(with({"mem:a"}));

	EXPECT_EQ(add(rig, "nosuch:x"), -EINVAL);
	EXPECT_EQ(add(rig, "mem:b,size=1"), -EINVAL);
	EXPECT_EQ(add(rig, "mem:a"), -EEXIST);
	EXPECT_EQ(kvh_controller_adapters(rig.controller), 1u);
	for (int i = 1; i < 16; i++)
		ASSERT_EQ(add(rig, ("null:n" + std::to_string(i)).c_str()), 0);
	EXPECT_EQ(add(rig, "null:n16"), -ENOSPC);
}

// ---- drain ------------------------------------------------------------------

TEST(ChangeDrain, EndsWhenItsStoresAreDoneAndTakesNoMore)
{
	Rig rig(with({"fault:a,script=put@1:hang,next=mem", "mem:b"}));

	ASSERT_EQ(rig.store(rig.key(1)), 0);
	Fault("a").held(1);
	Change change(rig, KVH_CHANGE_DRAIN, 0);

	change.start();
	rig.rounds();
	EXPECT_EQ(change.done.now(), 0u);
	rig.store_wait(rig.key(2)); // goes to the other
	Fault("a").release();
	EXPECT_EQ(change.wait(), 0);
	EXPECT_TRUE(rig.in_l2(0, rig.key(1))); // nothing was lost, and it is read from
	EXPECT_FALSE(rig.in_l2(0, rig.key(2)));
	EXPECT_TRUE(rig.in_l2(1, rig.key(2)));
	Prefetch p(rig, {hash_of(1)});

	kvh_l1_evict(rig.l1, 0);
	p.start().wait();
	EXPECT_EQ(p.usable, 1u);
	EXPECT_EQ(drain(rig, 0), 0); // again: there is nothing to do
}

TEST(ChangeDrain, OnesThatAreRefused)
{
	Log log;
	Rig rig(with({"fault:a,script=put@1:hang,next=mem"}));

	EXPECT_EQ(drain(rig, 1), -ENOENT);
	EXPECT_EQ(drain(rig, 16), -ENOENT);
	EXPECT_EQ(drain(rig, UINT32_MAX), -ENOENT);
	ASSERT_EQ(rig.store(rig.key(1)), 0);
	Fault("a").held(1);
	Change change(rig, KVH_CHANGE_DRAIN, 0);

	change.start();
	EXPECT_EQ(remove(rig, 0), -EBUSY);
	change.cancel();
	EXPECT_EQ(change.wait(), -ECANCELED);
	Fault("a").release();
}

// ---- remove -----------------------------------------------------------------

TEST(ChangeRemove, ClosesAndTheRestGoesOn)
{
	Rig rig(with({"mem:a", "mem:b", "mem:c"}));
	uint32_t index = 99;

	for (uint64_t i = 0; i < 20; i++)
		rig.store_wait(rig.key(i));
	ASSERT_EQ(remove(rig, 1), 0);
	EXPECT_EQ(kvh_controller_seat(rig.controller, 1), KVH_SEAT_EMPTY);
	EXPECT_EQ(rig.count(1, &N::puts), 20u); // its counters stay
	rig.store_wait(rig.key(20));
	EXPECT_TRUE(rig.in_l2(0, rig.key(20)));
	EXPECT_TRUE(rig.in_l2(2, rig.key(20))); // indexes are stable
	Erase e(rig, {rig.key(20)});

	e.start().wait();
	EXPECT_EQ(e.result[0], 0); // those that are there
	ASSERT_EQ(add(rig, "mem:d", &index), 0);
	EXPECT_EQ(index, 1u); // the seat is another's now
	rig.store_wait(rig.key(21));
	EXPECT_TRUE(rig.in_l2(1, rig.key(21)));
	EXPECT_FALSE(rig.in_l2(1, rig.key(1)));
}

TEST(ChangeRemove, TheLastOne)
{
	Log log;
	Rig rig(with({"mem:a"}));
	Persist persist;

	ASSERT_EQ(remove(rig, 0), 0);
	ASSERT_EQ(rig.store(rig.key(1), &persist), 0);
	persist.count.wait();
	EXPECT_EQ(persist.outcome.stored | persist.outcome.failed | persist.outcome.skipped,
		  0u);
	Prefetch p(rig, {hash_of(2)});

	p.start().wait();
	EXPECT_EQ(p.usable, 0u);
	EXPECT_EQ(remove(rig, 0), -ENOENT);
}

TEST(ChangeRemove, DropsWhatWaitsWhenItsTimeIsOver)
{
	Log log;
	Rig rig(with({"fault:a,script=put x*:hang,next=mem:x,depth=1", "mem:b"}));
	Persist persist;

	for (uint64_t i = 0; i < 5; i++)
		ASSERT_EQ(rig.store(rig.key(i), &persist), 0);
	Fault("a").held(1);
	while (rig.count(0, &N::waiting) < 4) /* behind it: some are being sealed still */
		std::this_thread::yield();
	EXPECT_EQ(remove(rig, 0, 0), 0);
	persist.count.wait(5);
	rig.drain();
	EXPECT_EQ(rig.count(0, &N::put_dropped), 5u);
	EXPECT_EQ(rig.count(1, &N::puts), 5u);
	EXPECT_EQ(rig.l1_stats().holds, 0u);
}

// The seat stays taken, and the frames that it may still touch are not reused.
TEST(ChangeRemove, OneThatDoesNotCloseKeepsItsSeat)
{
	Log log;
	Options options = with({"fault:a,script=put@1:hang=hard,next=mem", "mem:b"});

	Rig rig(options);
	uint32_t index = 99;

	ASSERT_EQ(rig.store(rig.key(1)), 0);
	Fault("a").held(1);
	EXPECT_EQ(remove(rig, 0, 0), -ETIMEDOUT);
	EXPECT_EQ(kvh_controller_seat(rig.controller, 0), KVH_SEAT_STUCK);
	EXPECT_EQ(rig.l1_stats().holds, 1u);
	ASSERT_EQ(add(rig, "mem:c", &index), 0);
	EXPECT_EQ(index, 2u);
	rig.store_wait(rig.key(2));
	EXPECT_TRUE(rig.in_l2(2, rig.key(2)));
	Fault("a").release(); // so that it closes in the end
}

// ---- under traffic -----------------------------------------------------------

// Stores, reads and look-ups go on while adapters come and go: what a drained one had
// taken is there, every chunk settles, every hold comes back.
TEST(ChangeTraffic, NothingIsLost)
{
	Options options = with({"mem:keep"});
	Rig rig(options);
	std::atomic<bool> stop{false};
	std::atomic<uint64_t> n{0};
	Persist persist;
	std::thread storer([&] {
		while (!stop) {
			ASSERT_EQ(rig.store(rig.key(n), &persist), 0);
			n++;
			if (n % 8 == 0)
				persist.count.wait(n); // L1 is small
		}
	});
	std::thread looker([&] {
		while (!stop) {
			const struct kvh_key key = rig.key(n);
			uint8_t found = 0;

			kvh_controller_peek(rig.controller, &key, 1, &found);
		}
	});

	for (int round = 0; round < 30; round++) {
		uint32_t index = 0;
		const uint64_t from = n;

		ASSERT_EQ(add(rig, ("mem:r" + std::to_string(round)).c_str(), &index), 0);
		while (n < from + 20)
			rig.on_loop([] {});
		ASSERT_EQ(drain(rig, index), 0);
		EXPECT_EQ(rig.count(index, &N::put_dropped) + rig.count(index, &N::put_failed),
			  0u);
		EXPECT_EQ(rig.count(index, &N::puts), rig.count(index, &N::objects));
		ASSERT_EQ(remove(rig, index), 0);
	}
	stop = true;
	storer.join();
	looker.join();
	persist.count.wait(n);
	rig.drain();
	EXPECT_EQ(rig.count(0, &N::puts), uint64_t(n)); // the one that stayed has all
	EXPECT_EQ(rig.l1_stats().holds, 0u);
}

// ---- settings -----------------------------------------------------------------

TEST(Setting, APolicyByNameForWhatComesLater)
{
	Log log;
	Rig rig(with({"mem"}));

	rig.store_wait(rig.key(1));
	rig.drain();
	EXPECT_EQ(rig.find(rig.key(1)), 1);
	EXPECT_EQ(kvh_controller_set_policy(rig.controller, "bufferonly"), -EINVAL);
	rig.store_wait(rig.key(2));
	rig.drain();
	EXPECT_EQ(rig.find(rig.key(2)), 1); // the old one is in force
	ASSERT_EQ(kvh_controller_set_policy(rig.controller, "buffer-only"), 0);
	rig.store_wait(rig.key(3));
	rig.drain();
	EXPECT_EQ(rig.find(rig.key(3)), 0);
	ASSERT_EQ(kvh_controller_set_policy(rig.controller, "second-use"), 0);
	rig.store_wait(rig.key(4));
	EXPECT_FALSE(rig.in_l2(0, rig.key(4)));
	EXPECT_TRUE(kvh_controller_wants_uses(rig.controller));
}

TEST(Setting, WatermarksOutOfOrderAreRefused)
{
	Log log;
	Options options = with({"mem"});
	const uint64_t frame = kvh_frame_bytes(16 * 40);
	Rig rig(options);

	for (uint64_t i = 0; i < 50; i++)
		rig.store_wait(rig.key(i));
	rig.drain();
	EXPECT_EQ(kvh_controller_set_watermarks(rig.controller, 20 * frame, 20 * frame),
		  -EINVAL);
	EXPECT_EQ(kvh_controller_set_watermarks(rig.controller, 20 * frame, 0), -EINVAL);
	EXPECT_EQ(log.count("allowed: 0 < low < high"), 2u);
	kvh_controller_pressure(rig.controller);
	rig.rounds();
	EXPECT_EQ(rig.l1_stats().frames, 50u);
	EXPECT_EQ(kvh_controller_set_watermarks(rig.controller, 20 * frame, 10 * frame), 0);
	rig.rounds(); // at once
	EXPECT_EQ(rig.l1_stats().frames, 10u);
}

TEST(Setting, BoundsAreCheckedAndTakeEffect)
{
	Log log;
	Options options = with({"fault:a,script=put x*:fail=EIO,next=mem"});

	options.retries = 0;
	Rig rig(options);
	struct kvh_controller_bounds bounds = {30 * kSecond, 17, UINT64_MAX};

	EXPECT_EQ(kvh_controller_set_bounds(rig.controller, &bounds), -EINVAL);
	bounds = {0, 2, UINT64_MAX};
	EXPECT_EQ(kvh_controller_set_bounds(rig.controller, &bounds), -EINVAL);
	rig.store_wait(rig.key(1));
	EXPECT_EQ(rig.count(0, &N::put_retried), 0u);
	bounds = {30 * kSecond, 2, UINT64_MAX};
	ASSERT_EQ(kvh_controller_set_bounds(rig.controller, &bounds), 0);
	rig.store_wait(rig.key(2));
	EXPECT_EQ(rig.count(0, &N::put_retried), 2u);
}

TEST(Setting, LimitsOutOfOrderAreRefused)
{
	Log log;
	Rig rig(with({"mem"}));

	struct kvh_limits *limits = nullptr;

	EXPECT_EQ(kvh_controller_limits_make(rig.controller, rig.space->id, 2, 1, &limits),
		  -EINVAL);
	ASSERT_EQ(kvh_controller_limits_make(rig.controller, rig.space->id, 1 << 20, 2 << 20,
					     &limits),
		  0);
	kvh_controller_limits_set(limits);
	rig.rounds();
}

} // namespace
