// SPDX-License-Identifier: Apache-2.0
//
// memory_wrap_test.cc - memory fails at every allocation and mapping of every call,
// once and for ever (scenario M2): no crash, no hang, no leak, no wrong byte, an
// error that says so, and the engine works on when there is memory again.
#include "config_rig.h"
#include "engine_harness.h"
#include "wrap.h"

#include <filesystem>

namespace
{

using namespace enginetest;

constexpr uint64_t kEnough = 20000; /* calls of one run; more is a loop */
constexpr uint32_t kChunks = 4;

size_t open_fds()
{
	return static_cast<size_t>(
		std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

bool refused(int64_t err)
{
	return err == -ENOMEM || err == -EIO || err == -EAGAIN;
}

/* An engine with L2, and what calls need; made without failures. */
struct Rig {
	explicit Rig(const std::string &spec)
	    : engine({{spec}, 4 * MIB}), pool(engine, desc.layout, engine.space(desc)),
	      queue(engine)
	{
		EXPECT_EQ(kChunks,
			  store_prompt(queue, pool, prompt(1, kChunks), KVH_STORE_PERSISTED));
		engine.evict();
	}
	/* All of it works. */
	void check()
	{
		pool.give_all();
		EXPECT_EQ(kChunks, fetch_and_check(queue, pool, prompt(1, kChunks)));
		pool.give_all();
		store_prompt(queue, pool, prompt(99, kChunks));
		EXPECT_EQ(kChunks, fetch_and_check(queue, pool, prompt(99, kChunks)));
	}

	Desc desc;
	Engine engine;
	Pool pool;
	Queue queue;
};

/* A call, or a few that belong together, while memory fails. */
struct Call {
	const char *name;
	void (*run)(Rig &rig);
};

void PrintTo(const Call &call, std::ostream *os)
{
	*os << call.name;
}

void run_store(Rig &rig)
{
	Job job;

	rig.pool.give_all();
	const int err = rig.queue.store(job, rig.pool, make_items(rig.pool, prompt(2, kChunks)),
					KVH_STORE_PERSISTED | KVH_STORE_PACKED);

	if (err != 0) {
		EXPECT_EQ(-ENOMEM, err);
		return;
	}
	rig.queue.finish(job);
	for (const int32_t status : job.status)
		EXPECT_TRUE(status == 0 || refused(status)) << status;
}

void run_prefetch_and_load(Rig &rig)
{
	const Prefix prefix = prefix_of(rig.pool, prompt(1, kChunks));
	std::vector<kvh_lease_t> leases;
	std::vector<Item> items;
	Job job, load;

	rig.pool.give_all();
	int err = rig.queue.prefetch(job, prefix, KVH_PREFETCH_FOUND);
	if (err != 0) {
		EXPECT_EQ(-ENOMEM, err);
		return;
	}
	rig.queue.finish(job);
	items = leased_items(rig.pool, prefix, job.leases, &leases);
	if (items.empty())
		return;
	err = rig.queue.load(load, rig.pool, leases, items);
	if (err == 0) {
		const kvh_event end = rig.queue.finish(load);

		EXPECT_TRUE(end.status == 0 || refused(end.status)) << end.status;
		for (size_t i = 0; i < items.size(); i++)
			EXPECT_TRUE(load.status[i] != 0 ||
				    rig.pool.holds(items[i].key, items[i].pages));
	} else {
		EXPECT_TRUE(refused(err)) << err;
	}
	EXPECT_EQ(0, kvh_release(rig.engine.get(), leases.data(), leases.size(), nullptr));
}

void run_lookup(Rig &rig)
{
	const Prefix prefix = prefix_of(rig.pool, prompt(1, kChunks));
	const kvh_prefix p = prefix.get();
	std::vector<kvh_lease_t> leases(prefix.entries(), KVH_NONE);
	std::vector<uint8_t> where(prefix.entries());
	uint32_t usable;
	const int err = kvh_lookup(rig.queue.get(), &p, KVH_LOOKUP_LEASE, where.data(),
				   leases.data(), &usable);

	EXPECT_TRUE(err == 0 || err == -ENOMEM) << err;
	if (err == 0) {
		EXPECT_EQ(0,
			  kvh_release(rig.engine.get(), leases.data(), leases.size(), nullptr));
	}
}

void run_erase(Rig &rig)
{
	const std::vector<kvh_hash> hashes = prompt(50, kChunks);
	std::vector<kvh_key> keys;
	Job job;

	for (const auto &hash : hashes)
		keys.push_back(rig.pool.key(0, hash));
	const int err = rig.queue.erase(job, keys);
	if (err == 0)
		rig.queue.finish(job);
	else
		EXPECT_EQ(-ENOMEM, err);
}

void run_space_and_pool(Rig &rig)
{
	Desc other;
	kvh_space_t space;

	other.model = "other";
	int err = other.open(rig.engine.get(), &space);
	EXPECT_TRUE(err == 0 || refused(err)) << err;
	Job job;

	rig.pool.id = KVH_NONE;
	err = rig.pool.add(rig.engine.get());
	if (err != 0) {
		EXPECT_TRUE(refused(err)) << err;
	}
}

void run_queue(Rig &rig)
{
	kvh_queue *queue = nullptr;
	const int err = kvh_queue_open(rig.engine.get(), 4, &queue);

	EXPECT_TRUE(err == 0 || err == -ENOMEM) << err;
	kvh_queue_close(err == 0 ? queue : nullptr);
}

void run_control(Rig &rig)
{
	char text[64];
	kvh_snapshot *snapshot = nullptr;
	kvh_status st{};

	st.size = sizeof(st);
	EXPECT_EQ(0, kvh_status_get(rig.engine.get(), &st));
	EXPECT_EQ(0, kvh_engine_set(rig.engine.get(), "watermark.low_pct", "80"));
	const int err = kvh_snapshot_take(rig.engine.get(), &snapshot);

	EXPECT_TRUE(err == 0 || err == -ENOMEM) << err;
	kvh_snapshot_free(snapshot);
	EXPECT_LT(0, kvh_engine_get(rig.engine.get(), "watermark.low_pct", text, sizeof(text)));
}

const Call calls[] = {
	{"Store", run_store},     {"PrefetchAndLoad", run_prefetch_and_load},
	{"Lookup", run_lookup},   {"Erase", run_erase},
	{"Queue", run_queue},     {"SpaceAndPool", run_space_and_pool},
	{"Control", run_control},
};

class MemoryFails : public ::testing::TestWithParam<std::tuple<Call, const char *>>
{
      protected:
	std::string spec() const
	{
		const std::string text = std::get<1>(GetParam());
		const size_t colon = text.find(':') + 1;

		return text.substr(0, colon) == "mem:" ? text
						       : text.substr(0, colon) + dir_.path() +
								 "/l2" + text.substr(colon);
	}
	/* False: the nth call never came. */
	bool once(uint64_t nth, bool for_ever)
	{
		Log log;
		Rig rig(spec());

		wrap::memory.arm(nth, for_ever);
		std::get<0>(GetParam()).run(rig);
		const bool came = wrap::memory.disarm();

		if (rig.pool.id == KVH_NONE) {
			EXPECT_EQ(0, rig.pool.add(rig.engine.get())) << "there is memory again";
		}
		rig.check();
		return came;
	}

      private:
	Dir dir_;
};

TEST_P(MemoryFails, AtEveryCall)
{
	json_set_alloc_funcs(__wrap_malloc, __wrap_free);
	EXPECT_FALSE(once(kEnough, false)); /* what is made once for all stays */
	const size_t live = wrap::live().count(), fds = open_fds();

	for (bool for_ever : {false, true}) {
		uint64_t nth = 1;

		while (once(nth, for_ever)) {
			ASSERT_LT(nth, kEnough);
			ASSERT_EQ(live, wrap::live().count()) << "leak, call " << nth;
			ASSERT_EQ(fds, open_fds()) << "call " << nth;
			ASSERT_FALSE(HasFailure())
				<< "call " << nth << " for ever " << for_ever;
			nth++;
		}
	}
}

INSTANTIATE_TEST_SUITE_P(
	All, MemoryFails,
	::testing::Combine(::testing::ValuesIn(calls),
			   ::testing::Values("mem:size=16M", "fs:", "nvme:,size=64M")),
	[](const ::testing::TestParamInfo<std::tuple<Call, const char *>> &info) {
		const std::string spec = std::get<1>(info.param);

		return std::string(std::get<0>(info.param).name) + "_" +
		       spec.substr(0, spec.find(':'));
	});

/* ---- opening ------------------------------------------------------------ */

class OpenWithoutMemory : public ::testing::TestWithParam<const char *>
{
};

TEST_P(OpenWithoutMemory, AtEveryCall)
{
	const std::string text = GetParam();
	const size_t colon = text.find(':') + 1;
	Dir dir;
	Opts opts{{text.substr(0, colon) + dir.path() + "/l2" + text.substr(colon)}, 4 * MIB};
	size_t live = 0, fds = 0;
	uint64_t failed = 0;

	opts.device = "host,host";
	for (bool for_ever : {false, true}) {
		bool came = true;

		for (uint64_t nth = 1; came; nth++) {
			kvh_engine *engine = nullptr;
			Log log;

			wrap::memory.arm(nth, for_ever);
			const int err = open_engine(opts, &engine);

			came = wrap::memory.disarm();
			EXPECT_TRUE(err == 0 || refused(err)) << err << " at call " << nth;
			if (err == 0) {
				EXPECT_EQ(0, kvh_engine_close(engine, 0));
			} else {
				EXPECT_EQ(nullptr, engine);
				failed++;
			}
			if (nth == 1 && !for_ever) { /* what is made once for all stays */
				live = wrap::live().count();
				fds = open_fds();
			}
			ASSERT_EQ(live, wrap::live().count()) << "leak, call " << nth;
			ASSERT_EQ(fds, open_fds()) << "call " << nth;
			ASSERT_LT(nth, kEnough);
		}
	}
	EXPECT_GT(failed, 10u) << "some have to be needed";
}

INSTANTIATE_TEST_SUITE_P(All, OpenWithoutMemory,
			 ::testing::Values("mem:,size=16M", "fs:", "nvme:,size=64M",
					   "nvme:,size=64M,engine=threads", "fault:,next=mem:"),
			 [](const ::testing::TestParamInfo<const char *> &info) {
				 return std::to_string(info.index);
			 });

/* ---- no threads (M3) ------------------------------------------------------ */

TEST_P(OpenWithoutMemory, OrWithoutThreads)
{
	const std::string text = GetParam();
	const size_t colon = text.find(':') + 1;
	Dir dir;
	Opts opts{{text.substr(0, colon) + dir.path() + "/l2" + text.substr(colon)}, 4 * MIB};
	Engine other; /* it does not notice */
	Desc desc;
	Pool pool(other, desc.layout, other.space(desc));
	Queue queue(other);
	size_t live = 0, fds = 0;
	uint64_t failed = 0;

	opts.device = "host,host";
	for (bool for_ever : {false, true}) {
		bool came = true;

		for (uint64_t nth = 1; came; nth++) {
			kvh_engine *engine = nullptr;
			Log log;

			wrap::threads.arm(nth, for_ever);
			const int err = open_engine(opts, &engine);

			came = wrap::threads.disarm();
			EXPECT_TRUE(err == 0 || err == -EAGAIN) << err;
			failed += err != 0;
			if (err == 0) {
				EXPECT_EQ(0, kvh_engine_close(engine, 0));
			}
			if (nth == 1 && !for_ever) {
				live = wrap::live().count();
				fds = open_fds();
			}
			ASSERT_EQ(live, wrap::live().count()) << "leak, thread " << nth;
			ASSERT_EQ(fds, open_fds()) << "thread " << nth;
			ASSERT_LT(nth, kEnough);
		}
	}
	EXPECT_GT(failed, 3u) << "controller, mover and workers are needed";
	EXPECT_EQ(kChunks, store_prompt(queue, pool, prompt(1, kChunks)));
}

/* ---- the control ----------------------------------------------------------- */

/* What this program would say if something leaked, or if nothing failed. */
TEST(ControlOfTheWrap, ALeakShowsAndAFailureComes)
{
	const size_t live = wrap::live().count();
	/* Volatile: a compiler may leave out what is only freed again. */
	char *volatile leak = strdup("leak");

	EXPECT_EQ(live + 1, wrap::live().count());
	free(leak);
	EXPECT_EQ(live, wrap::live().count());
	wrap::memory.arm(2, false);
	char *volatile first = strdup("first");
	char *volatile second = strdup("second");
	char *volatile third = strdup("third");

	EXPECT_TRUE(wrap::memory.disarm());
	EXPECT_NE(nullptr, first);
	EXPECT_EQ(nullptr, second);
	EXPECT_NE(nullptr, third);
	free(first);
	free(third);
}

/* ---- configuration ------------------------------------------------------- */

TEST(ConfigWithoutMemory, AtEveryCall)
{
	Dir dir;
	const std::string path = dir.path() + "/kv.json";
	const size_t live = wrap::live().count();
	bool came = true;

	std::ofstream(path) << "{\"l1\": {\"bytes\": \"4M\"}, \"device\": \"host\",\n"
			       "\"l2\": {\"adapters\": [\"mem:\", {\"adapter\": \"fs\", "
			       "\"path\": \"/x\"}]}}";
	json_set_alloc_funcs(__wrap_malloc, __wrap_free);
	for (uint64_t nth = 1; came; nth++) {
		kvh_config *config = nullptr;
		kvh_engine_opts opts;
		Log log;

		wrap::memory.arm(nth, false);
		int err = kvh_config_open(&config);
		if (err == 0) {
			err = kvh_config_file(config, path.c_str());
			const int set = kvh_config_set(config, "device", "host");
			const int used = kvh_config_opts(config, &opts);

			EXPECT_EQ(err != 0 || set != 0, used != 0);
			err = err != 0 ? err : set;
			kvh_config_close(config);
		}
		came = wrap::memory.disarm();
		/* Of a text that it cannot keep jansson may say that it is wrong. */
		EXPECT_TRUE(came ? err == -ENOMEM || err == -EINVAL : err == 0)
			<< err << ", call " << nth;
		ASSERT_EQ(live, wrap::live().count()) << "leak, call " << nth;
	}
}

} // namespace
