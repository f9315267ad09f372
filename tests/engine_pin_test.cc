// SPDX-License-Identifier: Apache-2.0
//
// engine_pin_test.cc - an engine whose L1 is still being pinned: it serves from what
// is there, adapters are given what comes, and it closes, forks and falls ill as it
// should.
#include "engine_harness.h"
#include "host/adapter_impl.h"
#include "host/controller_impl.h"

#include <atomic>
#include <future>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace
{

using namespace enginetest;

constexpr uint64_t PIECE = 2 * MIB;
constexpr uint32_t PIECES = 8;

Opts late(std::vector<std::string> l2 = {})
{
	Opts opts;

	opts.l2 = std::move(l2);
	opts.l1_bytes = PIECES * PIECE;
	opts.l1_piece_bytes = PIECE;
	return opts;
}

/* Of the engine that is opened next. */
void next(enum kvh_host_action action, uint64_t nth, uint64_t count = 1, uint64_t ns = 0)
{
	const kvh_host_rule rule = {KVH_HOST_REGISTER, action, nth, count, EAGAIN, ns};

	ASSERT_EQ(0, kvh_host_rule_next(&rule));
}

/* Opened with all registrations but the first held: one piece serves. (Two are under
 * way at once: which of them the device counts first is chance.) */
struct Held {
	explicit Held(const Opts &opts) : engine((next(KVH_HOST_HOLD, 2, UINT64_MAX), opts))
	{
		kvh_host_held_wait(engine.dev(), 1);
	}
	void let_go()
	{
		engine.release();
		kvh_arena_pinned_wait(engine.get()->arena);
	}

	Engine engine;
};

kvh_health health(const Engine &engine)
{
	kvh_health h{};

	h.size = sizeof(h);
	EXPECT_EQ(0, kvh_health_get(engine.get(), &h));
	return h;
}

/* Calls it on the controller's thread. */
void on_controller(const Engine &engine, const std::function<void()> &call)
{
	struct Work : kvh_loop_work {
		std::promise<void> done;
		const std::function<void()> *call;
	} work;

	work.call = &call;
	work.run = [](kvh_loop_work *w) {
		auto *self = static_cast<Work *>(w);

		(*self->call)();
		self->done.set_value();
	};
	std::future<void> done = work.done.get_future();
	kvh_controller_post(engine.get()->controller, &work);
	done.wait();
}

uint32_t attached(const Engine &engine, uint32_t adapter)
{
	uint32_t n = 0;

	on_controller(engine,
		      [&] { n = engine.get()->controller->adapters[adapter]->n_attached; });
	return n;
}

/* Regions there are, and pieces that were refused. */
uint32_t known(const Engine &engine, uint32_t adapter)
{
	uint32_t n = 0;

	on_controller(engine, [&] {
		kvh_adapter *a = engine.get()->controller->adapters[adapter];

		for (uint32_t i = 0; i < PIECES; i++)
			n += a->regions[i] != KVH_L2_NO_REGION;
		n += static_cast<uint32_t>(kvh_counted(&kvh_adapter_counters(a)->unregistered));
	});
	return n;
}

TEST(EnginePin, ServesFromTheFirstPieceWhileTheRestIsHeld)
{
	Held t(late());
	Desc desc;
	Pool pool(t.engine, desc.layout, t.engine.space(desc));
	Queue queue(t.engine);
	kvh_status st = t.engine.status();
	uint64_t seed = 0;

	EXPECT_EQ(PIECE, st.l1_bytes);
	EXPECT_EQ(PIECES * PIECE, st.l1_wanted_bytes);
	EXPECT_EQ(0u, st.l1_missing_bytes);
	EXPECT_EQ(1u, st.l1_pinning);
	EXPECT_TRUE(health(t.engine).healthy) << "more is coming: that is no illness";

	/* More than the piece has: nothing waits, the oldest go. */
	while (t.engine.status().evicted_alloc == 0) {
		pool.give_all();
		ASSERT_EQ(4u, store_prompt(queue, pool, prompt(++seed, 4)));
		pool.give_all();
		ASSERT_EQ(4u, fetch_and_check(queue, pool, prompt(seed, 4)));
	}
	st = t.engine.status();
	EXPECT_LE(st.l1_used_bytes, PIECE);
	EXPECT_EQ(0u, st.evicted_background) << "of what is still to come there is enough";

	t.let_go();
	st = t.engine.status();
	EXPECT_EQ(PIECES * PIECE, st.l1_bytes);
	EXPECT_EQ(0u, st.l1_pinning);
	const uint64_t evicted = st.evicted_alloc, before = seed;
	while (t.engine.status().l1_used_bytes < 2 * PIECE) {
		pool.give_all();
		ASSERT_EQ(4u, store_prompt(queue, pool, prompt(++seed, 4)));
	}
	EXPECT_EQ(evicted, t.engine.status().evicted_alloc);
	for (uint64_t s = before + 1; s <= seed; s++) {
		pool.give_all();
		ASSERT_EQ(4u, fetch_and_check(queue, pool, prompt(s, 4)));
	}
}

TEST(EnginePin, WithPinWaitAllIsThereWhenItOpens)
{
	Opts opts = late();

	opts.l1_pin_wait = true;
	next(KVH_HOST_SLOW, 1, UINT64_MAX, 1000000);
	Engine engine(opts);
	EXPECT_EQ(PIECES * PIECE, engine.status().l1_bytes);
	EXPECT_EQ(0u, engine.status().l1_pinning);
}

TEST(EnginePin, WhatCannotBePinnedLaterMakesItIllAndItGoesOn)
{
	Opts opts = late();

	opts.high_pct = 50;
	opts.low_pct = 25;
	next(KVH_HOST_FAIL, 2, UINT64_MAX);
	Engine engine(opts);
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	struct kvh_arena_stats arena;

	kvh_arena_pinned_wait(engine.get()->arena);
	const kvh_status st = engine.status();
	EXPECT_EQ(PIECE, st.l1_bytes);
	EXPECT_EQ(7 * PIECE, st.l1_missing_bytes);
	EXPECT_EQ(0u, st.l1_pinning);
	EXPECT_FALSE(health(engine).healthy);
	EXPECT_EQ("L1: 14680064 of 16777216 bytes could not be pinned: " +
			  std::string(strerror(EAGAIN)),
		  health(engine).reason);

	/* The watermarks are of what there is: else nothing would ever reach them. */
	kvh_arena_stats(engine.get()->arena, &arena);
	ASSERT_EQ(PIECE / 4, kvh_controller_low(engine.get()->controller, &arena));
	for (uint64_t seed = 1; engine.status().evicted_background == 0; seed++) {
		pool.give_all();
		ASSERT_EQ(4u, store_prompt(queue, pool, prompt(seed, 4)));
	}
	/* Limits stay those of what was asked for. */
	const kvh_l1_limits limits = {0, PIECES * PIECE, false};
	EXPECT_EQ(0, kvh_l1_limits_set(engine.get()->l1, pool.space, &limits));
}

TEST(EnginePin, AFirstPieceThatFailsIsOpensError)
{
	kvh_engine *engine = nullptr;
	Log log;

	next(KVH_HOST_FAIL, 1);
	EXPECT_EQ(-ENOMEM, open_engine(late(), &engine));
	EXPECT_EQ(1u, log.count("RLIMIT_MEMLOCK"));
}

TEST(EnginePin, ClosesWhileARegistrationIsHeld)
{
	Held t(late({"mem:size=16M"}));
	Desc desc;
	kvh_device *dev = t.engine.dev();
	{
		Pool pool(t.engine, desc.layout, t.engine.space(desc));
		Queue queue(t.engine);

		EXPECT_EQ(4u, store_prompt(queue, pool, prompt(1, 4), KVH_STORE_PERSISTED));
	}
	Engine *engine = &t.engine;
	int err = 1;
	std::thread closer([&] { err = engine->close(); });
	kvh_host_release(dev);
	closer.join();
	EXPECT_EQ(0, err);
}

TEST(EnginePin, ForkMeanwhileTakesNothing)
{
	Held t(late());
	const pid_t child = fork();

	if (child == 0) {
		kvh_status st{};

		st.size = sizeof(st);
		_exit(kvh_status_get(t.engine.get(), &st) == -EPERM &&
				      kvh_engine_close(t.engine.get(), 0) == -EPERM
			      ? 0
			      : 1);
	}
	int status = -1;
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
	t.let_go();
	EXPECT_EQ(PIECES * PIECE, t.engine.status().l1_bytes);
}

/* ---- adapters ------------------------------------------------------------- */

TEST(EnginePinL2, AdaptersAreGivenPiecesAsTheyCome)
{
	Dir dir;
	Held t(late({"nvme:" + dir.path() + "/disk,size=64M", "mem:size=16M"}));
	Desc desc;
	Pool pool(t.engine, desc.layout, t.engine.space(desc));
	Queue queue(t.engine);
	uint64_t seed = 0;

	EXPECT_EQ(1u, attached(t.engine, 0));
	ASSERT_EQ(4u, store_prompt(queue, pool, prompt(++seed, 4), KVH_STORE_PERSISTED));
	t.let_go();
	while (attached(t.engine, 0) < PIECES)
		std::this_thread::yield();
	EXPECT_EQ(PIECES, known(t.engine, 0)) << "a region each, or refused and counted";

	/* Through regions of later pieces, and back. */
	while (t.engine.status().l1_used_bytes < 3 * PIECE) {
		pool.give_all();
		ASSERT_EQ(8u,
			  store_prompt(queue, pool, prompt(++seed, 8), KVH_STORE_PERSISTED));
	}
	t.engine.evict();
	for (uint64_t s = 2; s <= seed; s++) {
		pool.give_all();
		ASSERT_EQ(8u, fetch_and_check(queue, pool, prompt(s, 8)));
	}
}

/* The control: whoever is not told keeps what it had, and it works all the same. */
TEST(EnginePinL2, UnattachedPiecesAreUsedUnregistered)
{
	Dir dir;
	Held t(late({"nvme:" + dir.path() + "/disk,size=64M"}));
	Desc desc;
	Pool pool(t.engine, desc.layout, t.engine.space(desc));
	Queue queue(t.engine);
	uint64_t seed = 0;

	kvh_arena_watch(t.engine.get()->arena, nullptr, nullptr);
	t.let_go();
	EXPECT_EQ(1u, attached(t.engine, 0));
	while (t.engine.status().l1_used_bytes < 3 * PIECE) {
		pool.give_all();
		ASSERT_EQ(8u,
			  store_prompt(queue, pool, prompt(++seed, 8), KVH_STORE_PERSISTED));
	}
	EXPECT_EQ(1u, attached(t.engine, 0));
	t.engine.evict();
	pool.give_all();
	EXPECT_EQ(8u, fetch_and_check(queue, pool, prompt(seed, 8)));
	kvh_controller_attach(t.engine.get()->controller);
	while (attached(t.engine, 0) < PIECES)
		std::this_thread::yield();
	pool.give_all();
	t.engine.evict();
	EXPECT_EQ(8u, fetch_and_check(queue, pool, prompt(seed, 8)));
}

TEST(EnginePinL2, AnAdapterThatIsAddedMeanwhileGetsThemToo)
{
	Dir dir;
	Held t(late());
	Queue queue(t.engine);
	const std::string spec = "nvme:" + dir.path() + "/disk,size=64M";
	Job job;

	ASSERT_EQ(0, queue.run(job, [&](kvh_queue *q, uint64_t user_data, kvh_job_t *id) {
		return kvh_l2_add(q, spec.c_str(), user_data, id);
	}));
	EXPECT_EQ(0, queue.finish(job).status);
	EXPECT_EQ(1u, attached(t.engine, 0));
	t.let_go();
	while (attached(t.engine, 0) < PIECES)
		std::this_thread::yield();
	EXPECT_EQ(PIECES, known(t.engine, 0));
}

/* ---- all at once ------------------------------------------------------------ */

TEST(EnginePinStress, StoresAndLoadsWhileL1Grows)
{
	Dir dir;

	next(KVH_HOST_SLOW, 2, UINT64_MAX, 20000000);
	Engine engine(late({"nvme:" + dir.path() + "/disk,size=64M"}));
	std::vector<std::thread> users;

	for (uint64_t t = 0; t < 3; t++)
		users.emplace_back([&engine, t] {
			Desc desc;

			desc.model = "m" + std::to_string(t);
			Pool pool(engine, desc.layout, engine.space(desc));
			Queue queue(engine);
			bool growing = true;

			for (uint64_t i = 1; growing; i++) {
				growing = engine.status().l1_pinning !=
					  0; /* one round after it */
				pool.give_all();
				store_prompt(queue, pool, prompt(t * 1000 + i, 8));
				pool.give_all();
				fetch_and_check(queue, pool, prompt(t * 1000 + 1 + i / 2, 8));
			}
		});
	for (std::thread &user : users)
		user.join();
	EXPECT_EQ(PIECES * PIECE, engine.status().l1_bytes);
	EXPECT_TRUE(health(engine).healthy) << health(engine).reason;
}

} // namespace
