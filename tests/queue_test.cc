// SPDX-License-Identifier: Apache-2.0
//
// Completion queues: capacity, events, the eventfd, waiting; jobs of a kind that
// does nothing, begun and ended by the test. Nothing here waits by the clock but
// what is to run into its own timeout.
#include "engine_harness.h"

#include <atomic>
#include <csignal>
#include <deque>
#include <mutex>
#include <poll.h>
#include <set>
#include <thread>

using namespace enginetest;

namespace
{

std::atomic<int> cancelled, forgotten;

const kvh_job_ops test_ops = {
	"test", 0, [](kvh_job *) { cancelled++; }, nullptr, [](kvh_job *) { forgotten++; },
};

class QueueTest : public testing::Test
{
      protected:
	void SetUp() override
	{
		cancelled = forgotten = 0;
	}
	kvh_queue *open(uint32_t capacity)
	{
		kvh_queue *queue = nullptr;

		EXPECT_EQ(0, kvh_queue_open(engine.get(), capacity, &queue));
		return queue;
	}
	static kvh_job *begin(kvh_queue *queue, uint64_t user_data = 0)
	{
		kvh_job *job = nullptr;

		EXPECT_EQ(0, kvh_job_begin(queue, &test_ops, user_data, &job));
		return job;
	}
	static bool readable(const kvh_queue *queue)
	{
		struct pollfd fd = {kvh_queue_fd(queue), POLLIN, 0};

		return poll(&fd, 1, 0) == 1;
	}

	Engine engine;
	kvh_event events[16];
};

TEST_F(QueueTest, CapacityIsChecked)
{
	kvh_queue *queue = reinterpret_cast<kvh_queue *>(8);
	Log log;

	EXPECT_EQ(-EINVAL, kvh_queue_open(engine.get(), 0, &queue));
	EXPECT_EQ(-EINVAL, kvh_queue_open(engine.get(), 65537, &queue));
	EXPECT_EQ(reinterpret_cast<kvh_queue *>(8), queue);
	EXPECT_EQ(2u, log.count("allowed: 1..65536"));
	queue = open(65536);
	for (int i = 0; i < 65536; i++)
		begin(queue);
	kvh_job *job;
	EXPECT_EQ(-EAGAIN, kvh_job_begin(queue, &test_ops, 0, &job));
	for (uint32_t i = 0; i < 65536; i++)
		kvh_job_end(&queue->jobs[i], 0, 0, 0, 0);
	EXPECT_EQ(65536u, engine.status().jobs);
	kvh_queue_close(queue);
	EXPECT_EQ(65536, forgotten);
	EXPECT_EQ(0u, engine.status().jobs);
	kvh_queue_close(nullptr);
}

TEST_F(QueueTest, AJobIsOutstandingUntilItsEndWasPolled)
{
	kvh_queue *queue = open(2);
	kvh_job *a = begin(queue, 1), *b = begin(queue, 2), *c;

	EXPECT_EQ(-EAGAIN, kvh_job_begin(queue, &test_ops, 3, &c));
	kvh_job_event(a, KVH_EVENT_PACKED, 0, 0);
	kvh_job_end(a, 0, 0, 0, 0);
	EXPECT_EQ(-EAGAIN, kvh_job_begin(queue, &test_ops, 3, &c));
	EXPECT_EQ(1, kvh_queue_poll(queue, events, 1)); /* PACKED */
	EXPECT_EQ(-EAGAIN, kvh_job_begin(queue, &test_ops, 3, &c));
	EXPECT_EQ(0, forgotten);
	EXPECT_EQ(2u, engine.status().jobs);
	EXPECT_EQ(1, kvh_queue_poll(queue, events, 1));
	EXPECT_EQ(1, forgotten);
	EXPECT_EQ(1u, engine.status().jobs);
	EXPECT_EQ(0, kvh_job_begin(queue, &test_ops, 3, &c));
	kvh_job_abandon(c);
	EXPECT_EQ(1u, engine.status().jobs);
	kvh_job_end(b, 0, 0, 0, 0);
	kvh_queue_close(queue);
	EXPECT_EQ(0u, engine.status().jobs);
}

TEST_F(QueueTest, EventsComeInOrderWithWhatWasSaid)
{
	kvh_queue *queue = open(4);
	kvh_job *a = begin(queue, 11), *b = begin(queue, 22);
	const kvh_job_t ids[2] = {a->id, b->id};

	kvh_job_event(a, KVH_EVENT_PACKED, 5, 0);
	kvh_job_event(b, KVH_EVENT_FOUND, 0, 7);
	kvh_job_event(a, KVH_EVENT_PERSISTED, 6, 0);
	kvh_job_end(b, -EIO, 1, 2, KVH_EVENT_PAGES_LOST);
	kvh_job_end(a, 0, 3, 4, 0);
	const kvh_event want[] = {
		{ids[0], 11, KVH_EVENT_PACKED, 0, 5, 0, 0, 0},
		{ids[1], 22, KVH_EVENT_FOUND, 0, 0, 7, 0, 0},
		{ids[0], 11, KVH_EVENT_PERSISTED, 0, 6, 0, 0, 0},
		{ids[1], 22, KVH_EVENT_DONE, -EIO, 1, 2, KVH_EVENT_PAGES_LOST, 0},
		{ids[0], 11, KVH_EVENT_DONE, 0, 3, 4, 0, 0},
	};
	EXPECT_EQ(3, kvh_queue_poll(queue, events, 3));
	EXPECT_EQ(2, kvh_queue_wait(queue, events + 3, 13, GUARD_NS));
	EXPECT_EQ(0, memcmp(want, events, sizeof(want)));
	EXPECT_EQ(0, kvh_queue_poll(queue, events, 16));
	kvh_queue_close(queue);
}

TEST_F(QueueTest, TheFdIsReadableWhileThereAreEvents)
{
	kvh_queue *queue = open(4);
	kvh_job *a = begin(queue), *b = begin(queue);

	EXPECT_FALSE(readable(queue));
	EXPECT_EQ(0, kvh_queue_poll(queue, events, 16));
	kvh_job_event(a, KVH_EVENT_PACKED, 0, 0);
	EXPECT_TRUE(readable(queue));
	EXPECT_TRUE(readable(queue)); /* a level: looking does not clear it */
	kvh_job_end(a, 0, 0, 0, 0);
	kvh_job_end(b, 0, 0, 0, 0);
	for (int left = 3; left > 0; left--) {
		EXPECT_TRUE(readable(queue)) << left;
		EXPECT_EQ(1, kvh_queue_poll(queue, events, 1));
	}
	EXPECT_FALSE(readable(queue));
	a = begin(queue);
	kvh_job_end(a, 0, 0, 0, 0);
	EXPECT_TRUE(readable(queue));
	EXPECT_EQ(0, kvh_queue_poll(queue, events, 0));
	EXPECT_EQ(0, kvh_queue_wait(queue, events, 0, GUARD_NS));
	EXPECT_TRUE(readable(queue));
	kvh_queue_close(queue);
}

TEST_F(QueueTest, JobsAreNeverTheSameValue)
{
	std::set<kvh_job_t> ids;
	size_t n = 0;

	for (int round = 0; round < 3; round++) {
		kvh_queue *first = open(3), *second = open(1);

		for (int i = 0; i < 200; i++)
			for (auto *queue : {first, first, second}) {
				kvh_job *job = begin(queue);

				EXPECT_NE(KVH_NONE, job->id);
				EXPECT_TRUE(ids.insert(job->id).second);
				n++;
				if (i % 5 == 0) {
					kvh_job_abandon(job);
					continue;
				}
				kvh_job_end(job, 0, 0, 0, 0);
				EXPECT_EQ(1, kvh_queue_poll(queue, events, 16));
			}
		kvh_queue_close(first);
		kvh_queue_close(second);
	}
	EXPECT_EQ(n, ids.size());
}

TEST_F(QueueTest, AJobIsFoundOnItsQueueUntilItsEndWasPolled)
{
	kvh_queue *queue = open(2), *other = open(2);
	kvh_job *job = begin(queue);
	const kvh_job_t id = job->id;

	EXPECT_EQ(job, kvh_job_find(queue, id));
	EXPECT_EQ(nullptr, kvh_job_find(other, id));
	EXPECT_EQ(nullptr, kvh_job_find(queue, id + (UINT64_C(1) << 16)));
	EXPECT_EQ(nullptr, kvh_job_find(queue, id | 0xFFFF));
	EXPECT_EQ(nullptr, kvh_job_find(queue, KVH_NONE));
	EXPECT_EQ(0, kvh_cancel(queue, id));
	EXPECT_EQ(-ENOENT, kvh_cancel(other, id));
	EXPECT_EQ(1, cancelled);
	kvh_job_end(job, 0, 0, 0, 0);
	EXPECT_EQ(job, kvh_job_find(queue, id)); /* for kvh_load_wait */
	EXPECT_EQ(-ENOENT, kvh_cancel(queue, id));
	EXPECT_EQ(1, kvh_queue_poll(queue, events, 16));
	EXPECT_EQ(nullptr, kvh_job_find(queue, id));
	EXPECT_EQ(-ENOENT, kvh_cancel(queue, id));
	EXPECT_EQ(1, cancelled);
	kvh_queue_close(queue);
	kvh_queue_close(other);
}

/* ---- waiting ------------------------------------------------------------ */

TEST_F(QueueTest, WaitRunsIntoItsTimeout)
{
	kvh_queue *queue = open(2);

	EXPECT_EQ(-ETIMEDOUT, kvh_queue_wait(queue, events, 16, 0));
	EXPECT_EQ(-ETIMEDOUT, kvh_queue_wait(queue, events, 16, 2000000));
	kvh_job_end(begin(queue), 0, 0, 0, 0);
	EXPECT_EQ(1, kvh_queue_wait(queue, events, 16, 0));
	kvh_queue_close(queue);
}

TEST_F(QueueTest, WaitIsWokenByTheEnd)
{
	kvh_queue *queue = open(2);

	for (int i = 0; i < 500; i++) {
		kvh_job *job = begin(queue);
		std::thread thread([&] { kvh_job_end(job, 0, 0, 0, 0); });

		EXPECT_EQ(1, kvh_queue_wait(queue, events, 16, UINT64_MAX));
		thread.join();
	}
	kvh_queue_close(queue);
}

TEST_F(QueueTest, WaitIsInterruptedByASignal)
{
	kvh_queue *queue = open(2);
	struct sigaction action = {}, old;
	std::atomic<bool> returned{false};
	int result = 0;

	action.sa_handler = [](int) {};
	sigaction(SIGUSR1, &action, &old);
	std::thread thread([&] {
		result = kvh_queue_wait(queue, events, 16, UINT64_MAX);
		returned = true;
	});
	while (!returned) {
		pthread_kill(thread.native_handle(), SIGUSR1);
		std::this_thread::yield();
	}
	thread.join();
	sigaction(SIGUSR1, &old, nullptr);
	EXPECT_EQ(-EINTR, result);
	kvh_queue_close(queue);
}

/* Each event exactly once, none after its job's end, while others end jobs. */
TEST_F(QueueTest, EventsFromManyThreads)
{
	constexpr int JOBS = 4000, THREADS = 3;
	kvh_queue *queue = open(8);
	std::vector<std::thread> threads;
	std::mutex lock;
	std::deque<kvh_job *> todo;
	std::map<kvh_job_t, int> seen; /* events so far; 3: has ended */
	int started = 0, ended = 0;
	std::atomic<bool> stop{false};

	for (int t = 0; t < THREADS; t++)
		threads.emplace_back([&] {
			while (!stop) {
				kvh_job *job = nullptr;
				{
					std::lock_guard<std::mutex> guard(lock);
					if (!todo.empty()) {
						job = todo.front();
						todo.pop_front();
					}
				}
				if (job == nullptr) {
					std::this_thread::yield();
					continue;
				}
				kvh_job_event(job, KVH_EVENT_PACKED, 0, 0);
				kvh_job_event(job, KVH_EVENT_PERSISTED, 0, 0);
				kvh_job_end(job, 0, 0, 0, 0);
			}
		});
	while (ended < JOBS) {
		kvh_job *job;

		while (started < JOBS && kvh_job_begin(queue, &test_ops, 0, &job) == 0) {
			std::lock_guard<std::mutex> guard(lock);
			todo.push_back(job);
			started++;
		}
		const int n = kvh_queue_wait(queue, events, 1 + ended % 16, GUARD_NS);
		ASSERT_GT(n, 0);
		for (int i = 0; i < n; i++) {
			static const uint32_t order[] = {KVH_EVENT_PACKED, KVH_EVENT_PERSISTED,
							 KVH_EVENT_DONE};
			int &count = seen[events[i].job];

			ASSERT_LT(count, 3);
			EXPECT_EQ(order[count++], events[i].type);
			ended += count == 3;
		}
	}
	stop = true;
	for (auto &thread : threads)
		thread.join();
	EXPECT_FALSE(readable(queue));
	EXPECT_EQ(JOBS, forgotten);
	kvh_queue_close(queue);
}

/* ---- close -------------------------------------------------------------- */

TEST_F(QueueTest, CloseCancelsAndWaits)
{
	kvh_queue *queue = open(4);
	kvh_job *a = begin(queue), *b = begin(queue);
	std::atomic<bool> closed{false};

	begin(queue);
	kvh_job_end(&queue->jobs[2], 0, 0, 0, 0); /* has ended: is not cancelled */
	std::thread thread([&] {
		kvh_queue_close(queue);
		closed = true;
	});
	while (cancelled < 2)
		std::this_thread::yield();
	kvh_job_end(b, -ECANCELED, 0, 0, 0);
	EXPECT_FALSE(closed);
	kvh_job_end(a, -ECANCELED, 0, 0, 0);
	thread.join();
	EXPECT_EQ(2, cancelled);
	EXPECT_EQ(3, forgotten);
}

TEST_F(QueueTest, CloseReturnsTheLeases)
{
	Desc desc;
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue mine(engine), theirs(engine);
	std::vector<kvh_lease_t> leases, others;

	EXPECT_EQ(4u, store_prompt(mine, pool, prompt(1, 4)));
	EXPECT_EQ(4u, mine.lookup(prefix_of(pool, prompt(1, 4)), nullptr, &leases));
	EXPECT_EQ(4u, theirs.lookup(prefix_of(pool, prompt(1, 4)), nullptr, &others));
	EXPECT_EQ(8u, engine.status().l1_leases);
	mine.close();
	EXPECT_EQ(4u, engine.status().l1_leases);
	Log log;
	EXPECT_EQ(-ESTALE, theirs.release(leases));
	EXPECT_EQ(4u, engine.status().l1_leases);
	EXPECT_EQ(0, theirs.release(others));
}

TEST_F(QueueTest, QueuesComeAndGo)
{
	for (int i = 0; i < 5000; i++)
		kvh_queue_close(open(1));
	kvh_queue *a = open(1), *b = open(1), *c = open(1);
	kvh_queue_close(b);
	kvh_queue_close(a);
	b = open(1);
	kvh_queue_close(c);
	kvh_queue_close(b);
	EXPECT_EQ(nullptr, engine.get()->queues);
}

} // namespace
