/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine_way_test.cc - the options that say how pages cross a GPU's link reach the
 * mover, and what is live is live.
 */
#include "engine_harness.h"

#include "cuda/device_host.h"

using namespace enginetest;

namespace
{

/* Pages with one run of 16 KiB a plane, the four planes at one stride. */
Desc rows_of_16k()
{
	Sizes s = sizes(32);
	Desc desc;

	s.H = desc.heads = 4;
	s.D = 1024;
	desc.head_size = s.D / 2;
	desc.layout = layouts::dense("rows", "lkpthd", s, KVH_FORMAT_NATIVE);
	return desc;
}

struct kvh_engine *open_way(const char *way)
{
	struct kvh_engine *engine = nullptr;
	kvh_engine_opts o;

	kvh_engine_opts_init(&o, sizeof(o));
	o.device = "host";
	o.l1_bytes = 32 * MIB;
	o.stage_bytes = 64 << 10;
	o.gpu_way = way;
	o.gpu_stages = 2;
	o.gpu_burst = 8;
	EXPECT_EQ(0, kvh_engine_open(&o, &engine));
	return engine;
}

/* Which kernels have run since it was made. */
class Kernels
{
      public:
	explicit Kernels(const Engine &engine)
	    : dev_(engine.dev()), gathers_(kvh_host_count(dev_, KVH_HOST_GATHER)),
	      scatters_(kvh_host_count(dev_, KVH_HOST_SCATTER))
	{
	}
	bool gathered() const
	{
		return kvh_host_count(dev_, KVH_HOST_GATHER) != gathers_;
	}
	bool scattered() const
	{
		return kvh_host_count(dev_, KVH_HOST_SCATTER) != scatters_;
	}

      private:
	struct kvh_device *dev_;
	uint64_t gathers_, scatters_;
};

TEST(EngineWay, IsAnOption)
{
	for (const char *way : {"staged", "direct", "auto"}) {
		const Desc desc = rows_of_16k();
		Engine engine(open_way(way));
		Pool pool(engine, desc.layout, engine.space(desc));
		Queue queue(engine);
		const auto hashes = prompt(1, 3);
		const Kernels kernels(engine);
		const bool direct = way == std::string("direct");

		EXPECT_EQ(3u, store_prompt(queue, pool, hashes));
		EXPECT_NE(direct, kernels.gathered()) << way;
		EXPECT_EQ(3u, fetch_and_check(queue, pool, hashes));
		EXPECT_NE(direct, kernels.scattered()) << way;
	}
}

TEST(EngineWay, GentleIsLiveAndForStores)
{
	const Desc desc = rows_of_16k();
	Engine engine(open_way(nullptr));
	Pool pool(engine, desc.layout, engine.space(desc));
	Queue queue(engine);
	uint32_t turn = 0;

	for (const char *gentle : {"no", "yes", "no"}) {
		const auto hashes = prompt(++turn, 2);

		ASSERT_EQ(0, kvh_engine_set(engine.get(), "gpu.gentle", gentle));
		const Kernels kernels(engine);
		EXPECT_EQ(2u, store_prompt(queue, pool, hashes));
		EXPECT_EQ(gentle == std::string("no"), kernels.gathered());
		EXPECT_EQ(2u, fetch_and_check(queue, pool, hashes));
		EXPECT_TRUE(kernels.scattered());
	}
}

TEST(EngineWay, OtherValuesAreRefused)
{
	Engine engine(open_way("direct"));
	struct kvh_engine *none = nullptr;
	kvh_engine_opts o;
	char value[16];

	EXPECT_EQ(-EBUSY, kvh_engine_set(engine.get(), "gpu.way", "staged"));
	EXPECT_EQ(-EINVAL, kvh_engine_set(engine.get(), "gpu.gentle", "perhaps"));
	EXPECT_EQ(6, kvh_engine_get(engine.get(), "gpu.way", value, sizeof(value)));
	EXPECT_STREQ("direct", value);
	kvh_engine_opts_init(&o, sizeof(o));
	EXPECT_EQ(1u, o.gpu_calibrate);
	o.device = "host";
	o.l1_bytes = 2 * MIB;
	o.gpu_way = "quick";
	EXPECT_EQ(-EINVAL, kvh_engine_open(&o, &none));
	o.gpu_way = nullptr;
	o.gpu_stages = 17;
	EXPECT_EQ(-EINVAL, kvh_engine_open(&o, &none));
}

} // namespace
