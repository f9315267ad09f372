// SPDX-License-Identifier: Apache-2.0
//
// controller_harness.h - a controller on L1, an arena and the host device, with
// no engine above it: what the tests of the store, prefetch and erase controllers
// share. Chunks are patterns that follow from their key, so that every frame can
// be told to be right or wrong. Waits are for events, never for time.
#ifndef KVH_TESTS_CONTROLLER_HARNESS_H
#define KVH_TESTS_CONTROLLER_HARNESS_H

#include "cuda/device.h"
#include "host/adapter.h"
#include "host/clock.h"
#include "host/controller.h"
#include "host/frame.h"
#include "host/prefix.h"
#include "host/work.h"
#include "l2/fault.h"
#include "tests/l2_harness.h"

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <set>

namespace ctl
{

using l2test::Log;

constexpr uint64_t kSecond = KVH_NS_PER_S;

// ---- waiting ---------------------------------------------------------------

// Counts up; a wait is for a count.
class Count
{
      public:
	void add()
	{
		std::lock_guard<std::mutex> guard(lock_);

		n_++;
		changed_.notify_all();
	}
	void wait(uint64_t n = 1)
	{
		std::unique_lock<std::mutex> guard(lock_);

		changed_.wait(guard, [&] { return n_ >= n; });
	}
	uint64_t now()
	{
		std::lock_guard<std::mutex> guard(lock_);

		return n_;
	}

      private:
	std::mutex lock_;
	std::condition_variable changed_;
	uint64_t n_ = 0;
};

// Told once for each chunk that was published with it.
struct Persist : kvh_persist {
	Persist()
	{
		settled = [](kvh_persist *p, uint32_t, const kvh_store_outcome *outcome) {
			static_cast<Persist *>(p)->outcome = *outcome;
			static_cast<Persist *>(p)->count.add();
		};
	}
	struct kvh_store_outcome outcome = {}; // the last one's
	Count count;
};

// Work for the loop, or a worker, that lives until it was run.
template <typename Work>
struct Task : Work {
	explicit Task(std::function<void()> f) : fn(std::move(f))
	{
		this->next = nullptr;
		this->run = [](Work *work) {
			Task *task = static_cast<Task *>(work);

			task->fn();
			task->done.add();
		};
	}
	std::function<void()> fn;
	Count done;
};

// ---- the space -------------------------------------------------------------

struct Group {
	enum kvh_group_kind kind = KVH_GROUP_FULL;
	uint32_t window_chunks = 0;
	bool replicated = false;
	uint32_t head_bytes = 40; // payload: 16 * head_bytes, so that there is padding
};

constexpr uint32_t kChunkTokens = 16;

inline struct kvh_space *make_space(const std::vector<Group> &groups)
{
	std::vector<struct kvh_plane_shape> planes(groups.size());
	std::vector<struct kvh_group_desc> descs(groups.size());
	struct kvh_space_desc desc;
	struct kvh_space *space = nullptr;

	kvh_space_desc_init(&desc, sizeof(desc));
	for (size_t g = 0; g < groups.size(); g++) {
		planes[g] = {KVH_PLANE_TOKENS, 0, 1, groups[g].head_bytes, KVH_ORDER_NHD, 0, 0};
		descs[g] = {};
		descs[g].kind = groups[g].kind;
		descs[g].format = KVH_FORMAT_NATIVE;
		descs[g].page_tokens = kChunkTokens;
		descs[g].window_tokens = groups[g].window_chunks * kChunkTokens;
		descs[g].replicated = groups[g].replicated;
		descs[g].n_planes = 1;
		descs[g].planes = &planes[g];
	}
	desc.model = "test";
	desc.chunk_tokens = kChunkTokens;
	desc.layers = 1;
	desc.heads = 1;
	desc.head_size = 20;
	desc.n_groups = uint32_t(groups.size());
	desc.groups = descs.data();
	if (kvh_space_make(&desc, &space) != 0)
		abort();
	return space;
}

inline struct kvh_hash hash_of(uint64_t n)
{
	return l2test::make_key(n).hash;
}

// ---- the rig ---------------------------------------------------------------

struct Options {
	std::vector<std::string> l2;
	uint64_t l1_bytes = 4 << 20;
	std::vector<Group> groups = {Group()};
	const char *policy = "default";
	const struct kvh_policy *own_policy = nullptr; // instead
	uint32_t workers = 2;
	uint64_t deadline_ns = 30 * kSecond;
	uint32_t retries = 2;
	uint64_t queue_bytes = UINT64_MAX;
	uint64_t high_bytes = UINT64_MAX, low_bytes = UINT64_MAX;
	enum kvh_read_plan plan = KVH_READ_FIRST;
	uint64_t read_bytes = UINT64_MAX;
	uint64_t hedge_ns = UINT64_MAX; // never
	uint32_t speculate = 0;
	uint32_t breaker = 0; // never opens
	uint64_t sweep_ns = 0;
	bool with_spaces = false; // the policy sees the groups' shapes
};

class Rig
{
      public:
	explicit Rig(const Options &options = Options()) : space(make_space(options.groups))
	{
		struct kvh_arena_opts arena_opts = {};
		struct kvh_l1_opts l1_opts = {};

		if (kvh_device_host_open(&dev) != 0)
			abort();
		arena_opts.dev = dev;
		arena_opts.bytes = options.l1_bytes;
		arena_opts.numa_node = -1;
		arena_opts.touch_threads = 1;
		if (kvh_arena_open(&arena_opts, &arena) != 0)
			abort();
		l1_opts.arena = arena;
		if (kvh_l1_open(&l1_opts, &l1) != 0 || kvh_l1_client_open(l1, &client) != 0)
			abort();
		open_error = open(options);
	}
	// Everything comes back, or it is a bug: the sanitizer and L1 itself say so.
	~Rig()
	{
		if (controller != nullptr) {
			EXPECT_EQ(close(), 0);
		}
		if (leaked)
			return; // an adapter still has memory of ours, for ever
		EXPECT_EQ(l1_stats().holds, 0u);
		EXPECT_EQ(l1_stats().leases, 0u);
		EXPECT_EQ(l1_stats().doomed, 0u);
		kvh_l1_client_close(l1, client);
		kvh_l1_close(l1);
		kvh_arena_close(arena, false);
		dev->ops->close(dev);
		kvh_space_free(space);
		if (has_spaces_)
			kvh_space_table_free(&spaces_);
	}
	Rig(const Rig &) = delete;
	Rig &operator=(const Rig &) = delete;

	int close(uint64_t within_ns = 600 * kSecond)
	{
		int err = kvh_controller_close(controller, kvh_deadline_ns(within_ns));

		controller = nullptr;
		leaked = err != 0;
		return err;
	}

	// ---- chunks

	struct kvh_key key(uint64_t n, uint32_t group = 0, uint32_t rank = 0) const
	{
		struct kvh_key key = {};

		key.hash = hash_of(n);
		key.space = space->id;
		key.group = group;
		key.rank = space->groups[group].desc.replicated ? KVH_RANK_ANY : rank;
		return key;
	}

	uint64_t payload_bytes(uint32_t group = 0) const
	{
		return space->groups[group].payload_bytes;
	}
	uint64_t frame_bytes(uint32_t group = 0) const
	{
		return kvh_frame_bytes(payload_bytes(group));
	}

	static void pattern(const struct kvh_key &key, uint64_t payload, uint8_t *out)
	{
		uint64_t seed;

		memcpy(&seed, key.hash.bytes, sizeof(seed));
		std::mt19937_64 random(seed ^ (uint64_t(key.rank) << 32 | key.group));
		for (uint64_t i = 0; i < payload; i++)
			out[i] = uint8_t(random());
	}

	// Unsealed, as a store leaves it.
	void fill(void *frame, const struct kvh_key &key,
		  const struct kvh_hash &parent = kvh_hash{}) const
	{
		const uint64_t payload = payload_bytes(key.group);

		kvh_frame_fill(frame, &key, space->digest, &parent, 1, payload);
		pattern(key, payload, static_cast<uint8_t *>(frame) + KVH_FRAME_ALIGN);
	}

	l2test::Buffer sealed(const struct kvh_key &key) const
	{
		l2test::Buffer frame(frame_bytes(key.group));

		fill(frame.data(), key);
		kvh_frame_seal(frame.data());
		return frame;
	}

	// A FILLING frame with the chunk in it.
	kvh_frame reserve(const struct kvh_key &key, int want = 0)
	{
		struct kvh_l1_reserve item = {};

		item.key = key;
		item.payload_bytes = payload_bytes(key.group);
		kvh_l1_reserve(l1, &item, 1);
		EXPECT_EQ(item.status, want);
		if (item.status != 0)
			return 0;
		fill(kvh_l1_data(l1, item.frame), key);
		return item.frame;
	}

	int store(const struct kvh_key &key, Persist *persist = nullptr,
		  const struct kvh_hash *parent = nullptr)
	{
		kvh_frame frame = reserve(key);

		if (frame != 0 && parent != nullptr)
			fill(kvh_l1_data(l1, frame), key, *parent);

		return frame == 0 ? -ENOMEM
				  : kvh_controller_publish(controller, frame, persist);
	}
	void store_wait(const struct kvh_key &key)
	{
		Persist persist;

		EXPECT_EQ(store(key, &persist), 0);
		persist.count.wait();
	}
	void drain()
	{
		EXPECT_TRUE(kvh_controller_drain_wait(controller, UINT64_MAX));
	}

	uint8_t find(const struct kvh_key &key)
	{
		uint8_t found = 9;

		kvh_l1_find(l1, &key, 1, &found);
		return found;
	}

	// Whether a lease shows exactly the chunk of the key.
	::testing::AssertionResult shows(kvh_lease_t lease, const struct kvh_key &key)
	{
		std::vector<uint8_t> want(payload_bytes(key.group));
		struct kvh_key has;
		kvh_frame frame;

		if (kvh_l1_hold_lease(l1, lease, &frame) != 0)
			return ::testing::AssertionFailure() << "no such lease";
		const uint8_t *data = static_cast<uint8_t *>(kvh_l1_data(l1, frame));

		pattern(key, want.size(), want.data());
		kvh_l1_key(l1, frame, &has);
		const bool same = memcmp(&has, &key, sizeof(key)) == 0 &&
				  memcmp(data + 16, &key, sizeof(key)) == 0 &&
				  memcmp(data + KVH_FRAME_ALIGN, want.data(), want.size()) == 0;

		kvh_l1_unhold(l1, frame);
		return same ? ::testing::AssertionSuccess()
			    : ::testing::AssertionFailure() << "other bytes";
	}

	struct kvh_l1_stats l1_stats()
	{
		struct kvh_l1_stats stats;

		kvh_l1_stats(l1, &stats);
		return stats;
	}

	// ---- the controller's thread

	void on_loop(std::function<void()> fn)
	{
		Task<struct kvh_loop_work> task(std::move(fn));

		kvh_controller_post(controller, &task);
		task.done.wait();
	}

	// Long enough for the controller to look at all that was handed to it: what
	// is posted runs after the events of a round and before its tick.
	void rounds()
	{
		for (int i = 0; i < 3; i++)
			on_loop([] {});
	}
	// Lets the controller go round until something that is on its way has come.
	void until(std::function<bool()> there)
	{
		while (!there())
			on_loop([] {});
	}

	// One request straight to an adapter, past all controllers.
	int raw(uint32_t adapter, enum kvh_l2_op op, const struct kvh_key &key,
		l2test::Buffer *buffer = nullptr)
	{
		struct Raw : kvh_l2_task {
			Count done;
			int result = 0;
		} task;

		static_cast<kvh_l2_task &>(task) = {};
		task.req.op = op;
		task.req.key = key;
		task.req.buf = buffer != nullptr ? buffer->data() : nullptr;
		task.req.len = buffer != nullptr ? buffer->size() : 0;
		task.ended = [](kvh_l2_task *t, int status, bool buffer_free) {
			EXPECT_TRUE(buffer_free);
			static_cast<Raw *>(t)->result = status;
			static_cast<Raw *>(t)->done.add();
		};
		on_loop([&] { kvh_adapter_submit(this->adapter(adapter), &task); });
		task.done.wait();
		return task.result;
	}
	bool in_l2(uint32_t adapter, const struct kvh_key &key)
	{
		return raw(adapter, KVH_L2_PROBE, key) == 0;
	}
	// Puts a sound frame of the key there, as an earlier run would have.
	void preload(uint32_t adapter, const struct kvh_key &key)
	{
		l2test::Buffer frame = sealed(key);

		ASSERT_EQ(raw(adapter, KVH_L2_PUT, key, &frame), 0);
	}
	int verify(const l2test::Buffer &frame, const struct kvh_key &key)
	{
		return kvh_frame_verify(frame.data(), frame.size(), &key, space->digest,
					nullptr);
	}

	struct kvh_adapter *adapter(uint32_t i)
	{
		return kvh_controller_adapter(controller, i);
	}
	// A counter of an adapter; settled work only, so ask after a wait.
	uint64_t count(uint32_t i, kvh_counter kvh_adapter_counters::*counter)
	{
		return kvh_counted(&(kvh_adapter_counters(adapter(i))->*counter));
	}
	uint64_t metric(kvh_counter kvh_metrics::*counter)
	{
		return kvh_counted(&(metrics.*counter));
	}

	struct kvh_device *dev = nullptr;
	struct kvh_arena *arena = nullptr;
	struct kvh_l1 *l1 = nullptr;
	struct kvh_metrics metrics = {};
	struct kvh_space *space;
	struct kvh_controller *controller = nullptr;
	uint32_t client = 0;
	int open_error = 0;
	bool leaked = false;

      private:
	int open(const Options &options)
	{
		struct kvh_controller_opts opts = {};
		std::vector<const char *> specs;

		for (const std::string &spec : options.l2)
			specs.push_back(spec.c_str());
		opts.l1 = l1;
		opts.arena = arena;
		opts.metrics = &metrics;
		opts.policy = options.own_policy;
		if (opts.policy == nullptr &&
		    kvh_policy_find(options.policy, &opts.policy) != 0)
			abort();
		opts.l2 = specs.data();
		opts.n_l2 = uint32_t(specs.size());
		opts.workers = options.workers;
		opts.deadline_ns = options.deadline_ns;
		opts.retries = options.retries;
		opts.queue_bytes = options.queue_bytes;
		opts.high_bytes = options.high_bytes;
		opts.low_bytes = options.low_bytes;
		opts.plan = options.plan;
		opts.read_bytes = options.read_bytes;
		opts.hedge_ns = options.hedge_ns;
		opts.speculate = options.speculate;
		opts.breaker = options.breaker;
		opts.sweep_ns = options.sweep_ns;
		if (options.with_spaces) {
			struct kvh_space *mine;

			kvh_space_table_init(&spaces_);
			has_spaces_ = true;
			if (kvh_space_table_add(&spaces_, make_space(options.groups), &mine) !=
			    0)
				abort();
			opts.spaces = &spaces_;
		}
		return kvh_controller_open(&opts, &controller);
	}

	struct kvh_space_table spaces_;
	bool has_spaces_ = false;
};

// Keeps a worker, or the loop, busy until let go.
template <typename Work>
class Gate
{
      public:
	Gate()
	    : task_([this] {
		      entered_.add();
		      open_.wait();
	      })
	{
	}
	~Gate()
	{
		open();
		task_.done.wait();
	}
	Work *work()
	{
		return &task_;
	}
	void entered()
	{
		entered_.wait();
	}
	void open()
	{
		open_.add();
	}

      private:
	Count entered_, open_;
	Task<Work> task_;
};

struct WorkerGate : Gate<struct kvh_work> {
	explicit WorkerGate(Rig &rig)
	{
		kvh_workers_post(kvh_controller_workers(rig.controller), work());
		entered();
	}
};

struct LoopGate : Gate<struct kvh_loop_work> {
	explicit LoopGate(Rig &rig)
	{
		kvh_controller_post(rig.controller, work());
		entered();
	}
};

// The handle of a fault adapter, and its counts.
class Fault
{
      public:
	explicit Fault(const char *name) : fault_(kvh_fault_find(name))
	{
		if (fault_ == nullptr)
			abort();
	}
	void script(const char *text)
	{
		ASSERT_EQ(kvh_fault_set_script(fault_, text), 0);
	}
	void held(uint32_t n)
	{
		kvh_fault_wait_held(fault_, n);
	}
	void release()
	{
		kvh_fault_release(fault_);
	}
	uint64_t accepted(enum kvh_l2_op op)
	{
		struct kvh_fault_stats stats;

		kvh_fault_read_stats(fault_, &stats);
		return stats.accepted[op];
	}

      private:
	struct kvh_fault *fault_;
};

} // namespace ctl

#endif
