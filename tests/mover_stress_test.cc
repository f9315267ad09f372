/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_stress_test.cc - many moves at once. Schedules: one thread, the stepped
 * device, every choice drawn from a seed, so that a failing one replays exactly.
 * Stores by layers get layers late, all at once, or never, while their pages are
 * computed. Threads: two of them submit, wait on layers, give layers, cancel, add and
 * remove plans.
 * KVH_MOVER_SCHEDULES sets how many schedules are drawn, KVH_MOVER_SEED the first.
 */
#include "tests/mover_rig.h"

#include <cstdlib>

using namespace rig;

namespace
{

uint64_t from_env(const char *name, uint64_t usual)
{
	const char *s = getenv(name);

	return s ? strtoull(s, nullptr, 0) : usual;
}

Shape random_shape(Rng &rng)
{
	Shape s;

	s.planes = 1 + uint32_t(rng() % 6);
	s.planes_a_layer = 1 + uint32_t(rng() % 2);
	s.first_layer = uint32_t(rng() % 2);
	s.heads = 1 + uint32_t(rng() % 2);
	s.head_bytes = 1 + uint32_t(rng() % 24);
	s.order = uint32_t(rng() % 2);
	s.format = uint32_t(rng() % 2);
	s.page_tokens = 8u << (rng() % 3);
	s.gap = uint32_t(rng() % 9);
	s.n_pages = 24; /* of all: a falsified run may mix up page numbers */
	return s;
}

/* Half of them go direct, as far as their shapes can. */
Mode mode_of(Kind kind, uint64_t seed)
{
	return Mode(kind, seed / 2 % 2 ? KVH_MOVER_DIRECT : KVH_MOVER_AUTO);
}

/* What is done to a schedule beside drawing it. */
struct Fault {
	enum kvh_host_call call;
	enum kvh_host_action action;
	uint64_t nth, count;
};

/* Stores from one group and loads into another, in steps. A store by layers, one at a
 * time, has a group of its own, whose pages are spoilt when it starts and computed
 * before a layer is given. */
class Schedule
{
      public:
	explicit Schedule(uint64_t seed)
	    : r(mode_of(Kind::STEPPED, seed), 1 + seed % 3 * 700, 1 + uint32_t(seed % 4), seed),
	      late(r.group(random_shape(r.rng))), spoilt(late.image.size())
	{
		for (int i = 0; i < 2; i++) {
			from.push_back(&r.group(random_shape(r.rng)));
			into.push_back(&r.group(random_shape(r.rng)));
		}
	}
	~Schedule()
	{
		kvh_host_release(r.dev);
		r.close_mover(); /* before the payloads go, whatever was falsified */
		(void)r.dev->ops->stream_wait(r.dev, r.stream); /* computes from `spoilt` */
	}
	/* False if a byte is wrong where a status says that it is right. */
	bool run(const Fault *fault)
	{
		grows = !fault;
		if (fault)
			r.rule(fault->call, fault->action, fault->nth, fault->count);
		for (int op = 0; op < 300; op++)
			draw();
		if (!layered.empty() && (r.rng() % 2 || !give(KVH_LAYER_ALL)))
			kvh_mover_cancel(r.mover, &layered.back()->move);
		for (auto &job : jobs)
			if (job.accepted)
				job.wait();
		return intact() && in_order();
	}
	bool any_failed() const
	{
		return failed;
	}
	bool dead()
	{
		return r.dev->ops->dead(r.dev);
	}

      private:
	/* All parts of all jobs are made before a fault can refuse their memory. */
	void start(bool load)
	{
		if (dead())
			return;
		jobs.emplace_back(r);
		for (Group *g : load ? into : from)
			if (r.rng() % 3)
				jobs.back().add(*g, uint32_t(r.rng() % 4),
						load ? unsigned(r.rng() % 30) : 0);
		if (jobs.back().parts.empty() || jobs.back().start(load, r.stream) != 0)
			return;
		(load ? loads : stores).push_back(&jobs.back());
	}
	/* On the runtime's stream; false: it was refused. */
	bool write(uint64_t off, uint64_t bytes, const void *from)
	{
		struct kvh_copy copy = {static_cast<char *>(late.memory()) + off, from, bytes};

		return r.dev->ops->copy(r.dev, KVH_COPY_H2D, &copy, r.stream) == 0;
	}
	void start_layered()
	{
		if (dead() || (!layered.empty() && !layered.back()->finished()))
			return;
		given = -1;
		jobs.emplace_back(r);
		jobs.back().add(late, uint32_t(1 + r.rng() % 3));
		jobs.back().layered = true;
		for (uint32_t i = 0; i < late.plan->n_planes; i++)
			write(late.plane_offset(i), late.plane_bytes(i), spoilt.data());
		if (jobs.back().start(false, nullptr) == 0)
			layered.push_back(&jobs.back());
	}
	/* Computes what lacks up to the layer, and says so. */
	bool give(uint32_t layer)
	{
		Job &job = *layered.back();
		int rc;

		for (uint32_t i = 0; i < late.plan->n_planes; i++) {
			uint32_t at = late.plan->planes[i].layer;

			if (int64_t(at) > given && at <= layer &&
			    !write(late.plane_offset(i), late.plane_bytes(i),
				   &late.image[late.plane_offset(i)]))
				return false;
		}
		rc = job.give(layer, r.stream);
		if (rc == 0)
			given = layer;
		return rc == 0;
	}
	void draw_layer()
	{
		if (layered.empty() || layered.back()->finished())
			start_layered();
		else if (r.rng() % 16 == 0)
			kvh_mover_cancel(r.mover, &layered.back()->move);
		else if (r.rng() % 16 == 0)
			give(KVH_LAYER_ALL);
		else if (given < 8)
			give(uint32_t(given + 1 + int64_t(r.rng() % 2)));
	}
	void draw()
	{
		uint64_t what = r.rng() % 40;

		if (what == 0 && jobs.size() < 12)
			start(false);
		else if (what == 1 && jobs.size() < 12)
			start(true);
		else if (what == 2 && !stores.empty())
			kvh_mover_cancel(r.mover, &stores[r.rng() % stores.size()]->move);
		else if (what == 3 && grows)
			grow();
		else if (what == 4 && jobs.size() < 12)
			draw_layer();
		else
			r.step();
	}
	void grow()
	{
		Shape s = random_shape(r.rng);

		s.opaque = 200 + r.rng() % 2000;
		if (r.groups.size() < 8)
			r.group(s);
	}
	bool chunk_right(Job &job, size_t p, size_t i)
	{
		int32_t status = job.parts[p].status[i];

		failed |= status != 0;
		return status != 0 || job.stored(p, i);
	}
	bool intact()
	{
		std::vector<Job *> all = stores;

		all.insert(all.end(), layered.begin(), layered.end());
		for (Job *job : all) {
			for (size_t p = 0; p < job->parts.size(); p++)
				for (size_t i = 0; i < job->parts[p].status.size(); i++)
					if (!chunk_right(*job, p, i))
						return false;
			if (!job->guards_intact())
				return false;
		}
		for (Job *job : loads) { /* later ones lie over earlier ones */
			failed |= job->move.status != 0;
			if (job->move.status == 0)
				job->apply();
		}
		for (Group *g : into)
			if (!failed_loads() && g->download() != g->image)
				return false;
		return true;
	}
	bool failed_loads() const
	{
		for (Job *job : loads)
			if (job->move.status != 0)
				return true; /* its pages are undefined */
		return false;
	}
	/* Loads in order of submission; of stores those that went all the way through the
	 * ring. */
	bool in_order() const
	{
		uint64_t load = 0, store = 0;

		for (const Job *job : loads) {
			if (job->done_seq <= load)
				return false;
			load = job->done_seq;
		}
		for (const Job *job : stores) {
			if (job->move.status != 0 || job->chunks() == 0)
				continue;
			if (job->done_seq <= store)
				return false;
			store = job->done_seq;
		}
		return true;
	}

	Rig r;
	Group &late;
	Bytes spoilt; /* zeros */
	std::vector<Group *> from, into;
	std::deque<Job> jobs;
	std::vector<Job *> stores, loads, layered;
	int64_t given = -1; /* of the last layered one */
	bool failed = false, grows = true;
};

constexpr uint64_t SCHEDULES = 300;

TEST(MoverSchedules, AllEndRight)
{
	uint64_t first = from_env("KVH_MOVER_SEED", 1);
	uint64_t n = from_env("KVH_MOVER_SCHEDULES", SCHEDULES);

	for (uint64_t seed = first; seed < first + n; seed++) {
		Schedule schedule(seed);

		ASSERT_TRUE(schedule.run(nullptr)) << "KVH_MOVER_SEED=" << seed;
	}
}

/* A submission fails, a context error comes, at any moment. */
TEST(MoverSchedules, FaultsEndRight)
{
	uint64_t first = from_env("KVH_MOVER_SEED", 1);
	uint64_t n = from_env("KVH_MOVER_SCHEDULES", SCHEDULES);
	unsigned failed = 0, died = 0;

	for (uint64_t seed = first; seed < first + n; seed++) {
		static const enum kvh_host_call calls[] = {
			KVH_HOST_ENQUEUE, KVH_HOST_COPY,   KVH_HOST_GATHER,
			KVH_HOST_SCATTER, KVH_HOST_RECORD, KVH_HOST_WAIT_EVENT,
			KVH_HOST_QUERY};
		Rng rng(seed);
		Fault fault = {calls[rng() % 7], KVH_HOST_FAIL, 1 + rng() % 60, 1};
		Schedule schedule(seed);

		ASSERT_TRUE(schedule.run(&fault)) << "KVH_MOVER_SEED=" << seed;
		failed += schedule.any_failed();
		died += schedule.dead();
	}
	if (n >= SCHEDULES) { /* they did hit */
		EXPECT_GE(failed, n / 10);
		EXPECT_GE(died, n / 10);
	}
}

/* With waits that do not wait, or queries that lie, the same schedules find wrong
 * bytes. */
TEST(MoverSchedules, ControlFalsified)
{
	for (auto call : {KVH_HOST_WAIT_EVENT, KVH_HOST_QUERY}) {
		Fault fault = {call, KVH_HOST_LIE, 1, UINT64_MAX};
		unsigned wrong = 0;

		for (uint64_t seed = 1; seed <= 20; seed++) {
			Schedule schedule(seed);

			wrong += !schedule.run(&fault);
		}
		EXPECT_GE(wrong, 10u) << "call " << call;
	}
}

/* ---- threads ---------------------------------------------------------- */

void read_layers(Rig &r, Job &job, kvh_stream stream)
{
	for (uint32_t layer : {0u, 1u, KVH_LAYER_ALL}) {
		int rc = kvh_mover_load_wait(r.mover, &job.move, layer, stream);

		EXPECT_TRUE(rc == 0 || rc == -EINVAL) << rc;
	}
}

/* All of them, or some, and then it is cancelled. */
void give_layers(Rig &r, Job &job)
{
	uint32_t layer = 0;

	while (layer < 6 && r.rng() % 8) {
		int rc = job.give(layer, r.stream);

		EXPECT_TRUE(rc == 0 || rc == -ENOENT) << rc; /* it had all, and has ended */
		layer += 1 + uint32_t(r.rng() % 2);
	}
	if (layer < 6)
		kvh_mover_cancel(r.mover, &job.move);
	else
		(void)job.give(KVH_LAYER_ALL, r.stream); /* maybe it has ended */
}

/* A client with groups and jobs of its own on a mover that two share. */
void client(Rig &shared, uint64_t seed)
{
	Rig r(shared, seed); /* the same device and mover */
	Group &from = r.group(random_shape(r.rng)), &into = r.group(random_shape(r.rng));

	for (int round = 0; round < 40; round++) {
		std::deque<Job> stores, loads;

		for (int i = 0; i < 3; i++) {
			stores.emplace_back(r);
			stores.back().add(from, uint32_t(1 + r.rng() % 6));
			ASSERT_EQ(0, stores.back().start(false, r.stream));
			if (r.rng() % 4 == 0)
				kvh_mover_cancel(r.mover, &stores.back().move);
			stores.emplace_back(r);
			stores.back().add(from, uint32_t(1 + r.rng() % 3));
			stores.back().layered = true;
			ASSERT_EQ(0, stores.back().start(false, nullptr));
			give_layers(r, stores.back());
			loads.emplace_back(r);
			loads.back().add(into, uint32_t(1 + r.rng() % 6), 10);
			ASSERT_EQ(0, loads.back().start(true, r.stream));
			read_layers(r, loads.back(), r.stream);
		}
		if (round % 8 == 0) {
			Shape large = random_shape(r.rng);

			large.opaque = uint64_t(round + 1) * 300;
			r.group(large);
		}
		for (auto &job : stores) {
			job.wait();
			for (size_t i = 0; i < job.parts[0].status.size(); i++)
				EXPECT_TRUE(job.parts[0].status[i] == -ECANCELED ||
					    job.stored(0, i));
		}
		for (auto &job : loads) {
			job.wait();
			job.apply();
		}
		ASSERT_TRUE(into.download() == into.image) << "seed " << seed;
	}
}

void two_clients(uint64_t seed)
{
	Rig r(mode_of(Kind::HOST, 2 * seed), 3000, 3, seed);
	std::thread other([&] { client(r, 2 * seed); });

	client(r, 2 * seed + 1);
	other.join();
}

TEST(MoverThreads, TwoClients)
{
	for (uint64_t seed : {0, 1}) /* staged and direct */
		two_clients(from_env("KVH_MOVER_SEED", 2) + seed);
}

} // namespace
