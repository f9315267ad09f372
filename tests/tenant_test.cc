// SPDX-License-Identifier: Apache-2.0
//
// tenant_test.cc - paired tenants on every tier and adapter (scenario X3): who has
// the salt has everything, who has another has nothing, whatever the two do, and
// bytes that are moved to another tenant's name are not served.
#include "engine_harness.h"

#include <filesystem>
#include <fstream>

namespace
{

using namespace enginetest;

constexpr uint32_t kChunks = 8;

Desc tenant(const std::string &salt)
{
	Desc desc;

	desc.salt = salt;
	return desc;
}

struct Where {
	const char *name;
	const char *spec; /* %s: a directory; "": L1 only */
};

void PrintTo(const Where &where, std::ostream *os)
{
	*os << where.name;
}

class Tenants : public ::testing::TestWithParam<Where>
{
      protected:
	Opts opts() const
	{
		const std::string spec = GetParam().spec;
		const size_t at = spec.find("%s");
		Opts o;

		if (!spec.empty())
			o.l2.push_back(at == std::string::npos
					       ? spec
					       : spec.substr(0, at) + dir.path() +
							 spec.substr(at + 2));
		return o;
	}
	/* Of a prompt, by one tenant; what the others can have of it is in L1 or in L2. */
	static void store(const Engine &engine, Queue &queue, const Desc &desc)
	{
		Pool pool(engine, desc.layout, engine.space(desc));

		EXPECT_EQ(kChunks, store_prompt(queue, pool, prompt(1, kChunks)));
		engine.drain();
	}
	static uint32_t has(const Engine &engine, Queue &queue, const Desc &desc)
	{
		Pool pool(engine, desc.layout, engine.space(desc));

		return fetch_and_check(queue, pool, prompt(1, kChunks));
	}
	bool in_l2() const
	{
		return GetParam().spec[0] != '\0';
	}

	Dir dir;
};

TEST_P(Tenants, OnlyTheSameSaltHasIt)
{
	Engine engine(opts());
	Queue queue(engine);

	store(engine, queue, tenant("alice"));
	for (bool evicted : {false, true}) {
		if (evicted)
			engine.evict();
		for (const char *other : {"", "bob", "alic", "alice ", "Alice"})
			EXPECT_EQ(0u, has(engine, queue, tenant(other))) << other;
		EXPECT_EQ(0u, has(engine, queue, tenant(std::string("alice\0", 6))));
		EXPECT_EQ(!evicted || in_l2() ? kChunks : 0,
			  has(engine, queue, tenant("alice")));
	}
}

TEST_P(Tenants, BothKeepTheirOwn)
{
	Engine engine(opts());
	Queue queue(engine);

	store(engine, queue, tenant("alice"));
	store(engine, queue, tenant("bob"));
	if (in_l2())
		engine.evict();
	for (const char *salt : {"alice", "bob"})
		EXPECT_EQ(kChunks, has(engine, queue, tenant(salt))) << salt;
	EXPECT_EQ(0u, has(engine, queue, tenant("carol")));
}

/* The control: without salts the two are one, so that what is seen above is the
 * salt's doing. */
TEST_P(Tenants, ControlWithoutASaltTheyShare)
{
	Engine engine(opts());
	Queue queue(engine);

	store(engine, queue, tenant(""));
	if (in_l2())
		engine.evict();
	EXPECT_EQ(kChunks, has(engine, queue, tenant("")));
}

INSTANTIATE_TEST_SUITE_P(
	All, Tenants,
	::testing::Values(Where{"L1", ""}, Where{"mem", "mem:"}, Where{"fs", "fs:%s/fs"},
			  Where{"nvme", "nvme:%s/nvme,size=64M"},
			  Where{"nvme_threads", "nvme:%s/nvme,size=64M,engine=threads"},
			  Where{"fault", "fault:,next=mem:"}),
	[](const ::testing::TestParamInfo<Where> &info) {
		return std::string(info.param.name);
	});

/* ---- bytes of one tenant under the name of another ------------------------ */

/* As space ids are the names of directories, alice's files can be given to bob. */
void give_to(const std::string &root, kvh_space_t from, kvh_space_t to)
{
	char old_name[32], new_name[32];

	snprintf(old_name, sizeof(old_name), "/%016llx", static_cast<unsigned long long>(from));
	snprintf(new_name, sizeof(new_name), "/%016llx", static_cast<unsigned long long>(to));
	std::filesystem::rename(root + old_name, root + new_name);
}

TEST(TenantFiles, AnothersFilesAreMissesAndCounted)
{
	const Desc alice = tenant("alice"), bob = tenant("bob");
	kvh_space_t ids[2];
	Opts opts;
	Dir dir;

	opts.l2 = {"fs:" + dir.path() + "/fs"};
	{
		Engine engine(opts);
		Queue queue(engine);
		Pool pool(engine, alice.layout, engine.space(alice));

		ids[0] = pool.space;
		ids[1] = engine.space(bob);
		EXPECT_EQ(kChunks, store_prompt(queue, pool, prompt(1, kChunks)));
		queue.close();
		EXPECT_EQ(0, engine.close());
	}
	give_to(dir.path() + "/fs", ids[0], ids[1]);
	{
		Engine engine(opts);
		Queue queue(engine);
		Pool pool(engine, bob.layout, engine.space(bob));
		Log log;

		EXPECT_EQ(0u, fetch_and_check(queue, pool, prompt(1, kChunks)));
		/* The answer may come before the last is read. */
		while (engine.status().corrupt < kChunks)
			;
		EXPECT_EQ(uint64_t{kChunks}, engine.status().corrupt) << "each one";
	}
}

/* The control: moved back before anything was opened, they are alice's again. */
TEST(TenantFiles, ControlMovedBackTheyAreServed)
{
	const Desc alice = tenant("alice"), bob = tenant("bob");
	Opts opts;
	Dir dir;

	opts.l2 = {"fs:" + dir.path() + "/fs"};
	for (bool again : {false, true}) {
		Engine engine(opts);
		Queue queue(engine);
		Pool pool(engine, alice.layout, engine.space(alice));
		const kvh_space_t other = engine.space(bob);

		if (again) {
			EXPECT_EQ(kChunks, fetch_and_check(queue, pool, prompt(1, kChunks)));
			continue;
		}
		EXPECT_EQ(kChunks, store_prompt(queue, pool, prompt(1, kChunks)));
		queue.close();
		EXPECT_EQ(0, engine.close());
		give_to(dir.path() + "/fs", pool.space, other);
		give_to(dir.path() + "/fs", other, pool.space);
	}
}

} // namespace
