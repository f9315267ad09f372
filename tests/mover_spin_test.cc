/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_spin_test.cc - a mover that spins does not sleep while anything is in flight;
 * one that does not, does. The mover's waits come through here (--wrap in
 * tests/CMakeLists.txt) and are counted; no time matters.
 */
#include "host/thread.h"
#include "tests/mover_rig.h"

static std::atomic<uint64_t> sleeps; /* waits that were to be woken */

extern "C" {
int __real_kvh_fd_wait(int fd, uint64_t deadline_ns);

int __wrap_kvh_fd_wait(int fd, uint64_t deadline_ns)
{
	sleeps += deadline_ns != 0;
	return __real_kvh_fd_wait(fd, deadline_ns);
}
}

using namespace rig;

namespace
{

constexpr uint64_t FOR_EVER = UINT64_C(1) << 62;

/* A store and a load whose copies are held until the mover has asked n times. */
uint64_t sleeps_while_held(Rig &r, Group &g, uint64_t n)
{
	Job job(r);
	uint64_t asked, before;

	job.add(g, 4);
	r.rule(KVH_HOST_COPY, KVH_HOST_HOLD, 2);
	EXPECT_EQ(0, job.start(false, r.stream));
	kvh_host_held_wait(r.dev, 1);
	asked = kvh_host_count(r.dev, KVH_HOST_QUERY);
	r.until(KVH_HOST_QUERY, asked + 2); /* fed: it is in flight from here on */
	/* In this order: what the mover does meanwhile adds sleeps, and takes none away. */
	before = sleeps;
	asked = kvh_host_count(r.dev, KVH_HOST_QUERY);
	r.until(KVH_HOST_QUERY, asked + n);
	uint64_t slept = sleeps - before;
	kvh_host_release(r.dev);
	job.wait();
	job.expect_stored();
	return slept;
}

TEST(MoverSpin, DoesNotSleepWhileAnythingIsInFlight)
{
	Rig r(Kind::HOST);
	Group &g = r.group(Shape());

	kvh_mover_set_spin(r.mover, FOR_EVER);
	EXPECT_EQ(0u, sleeps_while_held(r, g, 50));
	/* Nothing is in flight: it sleeps, and does not ask the device. */
	uint64_t before = sleeps;
	kvh_mover_set_store_rate(r.mover, 0); /* wakes it */
	while (sleeps == before)
		std::this_thread::yield();
}

/* Without, as many sleeps as looks: each pass that found nothing is followed by one. */
TEST(MoverSpin, ControlWithoutItSleepsBetweenLooks)
{
	Rig r(Kind::HOST);
	Group &g = r.group(Shape());

	EXPECT_GE(sleeps_while_held(r, g, 50), 49u);
	kvh_mover_set_spin(r.mover, 1); /* too short */
	EXPECT_GE(sleeps_while_held(r, g, 50), 49u);
}

} // namespace
