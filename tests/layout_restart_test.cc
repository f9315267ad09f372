// SPDX-License-Identifier: Apache-2.0
//
// layout_restart_test.cc - a restart with another layout (scenario C7): whichever
// field of the descriptor differs, nothing that an earlier run has stored is
// loaded; with every field equal, all of it is.
#include "engine_harness.h"
#include "space_changes.h"

namespace
{

using namespace enginetest;

constexpr uint32_t kChunks = 4;

/* What a group has of a prompt's chunks. */
struct Found {
	uint32_t usable;
	uint64_t hits, corrupt;
};

/* Pages are of no interest here: a prefetch takes what is in L2. */
Found prefetch(const Engine &engine, const Desc &desc)
{
	const Prefix prefix = {engine.space(desc), prompt(1, kChunks),
			       static_cast<uint32_t>(desc.layout.groups.size()), 0, 1};
	Queue queue(engine);
	Job job;

	EXPECT_EQ(0, queue.prefetch(job, prefix));
	const kvh_event end = queue.finish(job);
	const kvh_status st = engine.status();

	EXPECT_EQ(0, kvh_release(engine.get(), job.leases.data(), job.leases.size(), nullptr));
	return {end.usable, st.hits_l1 + st.hits_l2, st.corrupt};
}

class LayoutRestart : public ::testing::TestWithParam<const char *>
{
      protected:
	Opts opts() const
	{
		const std::string spec = GetParam();
		Opts o;

		o.l2 = {spec.substr(0, spec.find(':') + 1) + dir.path() + "/l2" +
			spec.substr(spec.find(':') + 1)};
		return o;
	}
	void store(const Desc &desc) const
	{
		Engine engine(opts());
		Queue queue(engine);
		Pool pool(engine, desc.layout, engine.space(desc));

		EXPECT_EQ(kChunks * desc.layout.groups.size(),
			  store_prompt(queue, pool, prompt(1, kChunks)));
		queue.close();
		EXPECT_EQ(0, engine.close());
	}

	Dir dir;
};

TEST_P(LayoutRestart, OneFieldDiffers)
{
	const Desc base = rich();
	uint32_t fields = 0;

	store(base);
	for (const auto &change : space_changes) {
		Desc desc = base;

		change.make(desc);
		Engine engine(opts());
		const Found found = prefetch(engine, desc);

		EXPECT_EQ(0u, found.usable) << change.field;
		EXPECT_EQ(0u, found.hits) << change.field;
		EXPECT_EQ(0u, found.corrupt) << change.field << ": not even read";
		fields++;
	}
	EXPECT_GE(fields, 13u);

	/* The control, after all of them: what was stored is still there, whole. */
	Engine engine(opts());
	const Found found = prefetch(engine, base);

	EXPECT_EQ(kChunks, found.usable);
	EXPECT_GE(found.hits, kChunks * 2u) << "full and replicated groups, at the least";
}

INSTANTIATE_TEST_SUITE_P(All, LayoutRestart, ::testing::Values("nvme:,size=64M", "fs:"),
			 [](const ::testing::TestParamInfo<const char *> &info) {
				 const std::string spec = info.param;

				 return spec.substr(0, spec.find(':'));
			 });

} // namespace
