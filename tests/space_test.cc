// SPDX-License-Identifier: Apache-2.0
//
// Descriptors to digests: every field alone makes another space (scenario C7),
// and no two descriptors have one encoding (X2).
#include "engine_rig.h"
#include "space_changes.h"

#include <array>
#include <map>
#include <memory>

#include <thread>

using namespace enginetest;

namespace
{

using Digest = std::array<uint8_t, 32>;

struct Made {
	int err = 0;
	kvh_space_t id = KVH_NONE;
	Digest digest{};
};

Made make(const kvh_space_desc &fields)
{
	struct kvh_space *space = nullptr;
	Made made;

	made.err = kvh_space_make(&fields, &space);
	if (made.err == 0) {
		made.id = space->id;
		std::copy(space->digest, space->digest + 32, made.digest.begin());
		kvh_space_free(space);
	}
	return made;
}

Made make(const Desc &desc)
{
	std::vector<kvh_group_desc> groups;

	return make(desc.fields(groups));
}

TEST(Space, EveryFieldAloneMakesAnotherSpace)
{
	std::map<kvh_space_t, const char *> ids = {{make(rich()).id, "none"}};

	for (const auto &change : space_changes) {
		Desc desc = rich();

		change.make(desc);
		const Made made = make(desc);
		ASSERT_EQ(0, made.err) << change.field;
		const auto added = ids.emplace(made.id, change.field);
		EXPECT_TRUE(added.second) << change.field << " is as " << added.first->second;
	}
	EXPECT_GT(ids.size(), 13u);
}

TEST(Space, EqualDescriptorsAreOneSpace)
{
	Engine engine;
	Desc desc = rich(), none;

	EXPECT_EQ(make(desc).digest, make(rich()).digest);
	EXPECT_EQ(engine.space(desc), engine.space(rich()));
	EXPECT_EQ(engine.space(desc), make(desc).id);
	desc.layout.groups[3].shapes[1].order = KVH_ORDER_HND; /* a portable group's */
	EXPECT_EQ(make(desc).digest, make(rich()).digest);
	desc.layout.groups[3].shapes[1].order = 77; /* ignored */
	EXPECT_EQ(make(desc).digest, make(rich()).digest);

	/* NULL is "". */
	std::vector<kvh_group_desc> groups, same;
	none.model = none.revision = none.dtype = none.quant = none.runner = "";
	none.hash_algo = none.hash_seed = none.salt = "";
	kvh_space_desc fields = none.fields(groups);
	fields.model = fields.revision = fields.dtype = fields.quant = fields.runner = nullptr;
	fields.hash_algo = fields.hash_seed = nullptr;
	fields.salt = nullptr;
	EXPECT_EQ(make(none.fields(same)).digest, make(fields).digest);
}

/* The id is what other processes, and frames on disk, know: it must not change
 * by accident. A change of the encoding is a new KVH_FRAME_VERSION, and a new
 * value here. */
TEST(Space, TheEncodingIsPinned)
{
	EXPECT_EQ(1u, KVH_FRAME_VERSION);
	EXPECT_EQ(UINT64_C(3979799881266640445), make(rich()).id);
}

TEST(Space, TheIdIsTheDigestsStart)
{
	const Made made = make(rich());
	uint64_t id = 0;

	for (size_t i = 0; i < 8; i++)
		id |= uint64_t{made.digest[i]} << (8 * i);
	EXPECT_EQ(id, made.id);
}

/* Short strings over few letters, numbers that look like text: what runs
 * together in an encoding without lengths. */
TEST(Space, NoTwoDescriptorsHaveOneEncoding)
{
	layouts::Rng rng(20240717);
	std::map<Digest, std::string> seen;
	std::map<std::string, std::string> naive; /* the control: without lengths */
	uint64_t others = 0, collisions = 0;

	for (int i = 0; i < 100000; i++) {
		std::string *texts[8], all, apart;
		Desc desc;

		texts[0] = &desc.model, texts[1] = &desc.revision, texts[2] = &desc.dtype;
		texts[3] = &desc.quant, texts[4] = &desc.runner, texts[5] = &desc.hash_algo;
		texts[6] = &desc.hash_seed, texts[7] = &desc.salt;
		for (auto *text : texts) {
			text->clear();
			while (rng() % 3 == 0)
				text->push_back("ab\x01"[rng() % (text == texts[7] ? 3 : 2)]);
			all += *text;
			apart += *text + '\xFF';
		}
		desc.layers = static_cast<uint32_t>(rng() % 2 == 0 ? 1 : 0x6161);
		apart += std::to_string(desc.layers);
		all += std::to_string(desc.layers);
		const Made made = make(desc);
		ASSERT_EQ(0, made.err);
		const auto it = seen.emplace(made.digest, apart);
		ASSERT_EQ(apart, it.first->second) << "one digest, two descriptors";
		others += it.second;
		collisions += naive.emplace(all, apart).first->second != apart;
	}
	EXPECT_GT(others, 10000u);
	EXPECT_GT(collisions, 10000u);
}

TEST(Space, AnIdThatAnotherDescriptorHasIsRefused)
{
	Desc a, b;
	std::vector<kvh_group_desc> groups_a, groups_b, groups_c;
	struct kvh_space_table table;
	struct kvh_space *first, *second, *again, *got = nullptr;
	Log log;

	b.model = "other";
	const kvh_space_desc fields_a = a.fields(groups_a), fields_b = b.fields(groups_b);
	kvh_space_table_init(&table);
	ASSERT_EQ(0, kvh_space_make(&fields_a, &first));
	ASSERT_EQ(0, kvh_space_make(&fields_b, &second));
	ASSERT_EQ(0, kvh_space_make(&fields_a, &again));
	ASSERT_EQ(0, kvh_space_table_add(&table, first, &got));
	EXPECT_EQ(first, got);
	second->id = first->id;
	EXPECT_EQ(-EEXIST, kvh_space_table_add(&table, second, &got));
	EXPECT_EQ(1u, log.count("belongs to another descriptor"));
	EXPECT_EQ(0, kvh_space_table_add(&table, again, &got));
	EXPECT_EQ(first, got);
	EXPECT_EQ(first, kvh_space_table_find(&table, first->id));
	EXPECT_EQ(nullptr, kvh_space_table_find(&table, first->id + 1));
	kvh_space_table_free(&table);
}

TEST(Space, ManyInABucketAndManyThreads)
{
	constexpr uint32_t N = 1500;
	Engine engine;
	std::vector<std::vector<kvh_space_t>> ids(3, std::vector<kvh_space_t>(N));
	std::vector<std::thread> threads;

	for (size_t t = 0; t < ids.size(); t++)
		threads.emplace_back([&, t] {
			for (uint32_t i = 0; i < N; i++) {
				const uint32_t at = t == 1 ? N - 1 - i : i;
				Desc desc;

				desc.layers = at;
				EXPECT_EQ(0, desc.open(engine.get(), &ids[t][at]));
			}
		});
	for (auto &thread : threads)
		thread.join();
	EXPECT_EQ(ids[0], ids[1]);
	EXPECT_EQ(ids[0], ids[2]);
	for (const auto id : ids[0])
		EXPECT_GT(kvh_space_chunk_bytes(engine.get(), id, 0), 0);
	std::sort(ids[0].begin(), ids[0].end());
	EXPECT_EQ(ids[0].end(), std::unique(ids[0].begin(), ids[0].end()));
}

TEST(Space, ChunkBytes)
{
	Engine engine;
	const Desc desc = rich();
	const kvh_space_t space = engine.space(desc);
	Log log;

	/* 2 layers x K, V x 2 pages x 4 tokens x 3 heads x 32 bytes */
	EXPECT_EQ(2 * 2 * 2 * 4 * 3 * 32, kvh_space_chunk_bytes(engine.get(), space, 0));
	EXPECT_EQ(200, kvh_space_chunk_bytes(engine.get(), space, 2));
	EXPECT_EQ(-ENOENT, kvh_space_chunk_bytes(engine.get(), space, 4));
	EXPECT_EQ(-ENOENT, kvh_space_chunk_bytes(engine.get(), space + 1, 0));
	EXPECT_EQ(-ENOENT, kvh_space_chunk_bytes(engine.get(), KVH_NONE, 0));
	EXPECT_EQ(3u, log.count("there is no group"));
}

/* ---- what is refused ---------------------------------------------------- */

TEST(Space, BadFieldsOfTheSpace)
{
	const std::pair<const char *, void (*)(kvh_space_desc &)> bad[] = {
		{"space", [](kvh_space_desc &d) { d.size--; }},
		{"chunk_tokens", [](kvh_space_desc &d) { d.chunk_tokens = 0; }},
		{"n_groups", [](kvh_space_desc &d) { d.n_groups = 0; }},
		{"n_groups", [](kvh_space_desc &d) { d.n_groups = KVH_GROUPS_MAX + 1; }},
		{"n_groups", [](kvh_space_desc &d) { d.groups = nullptr; }},
		{"tp_size", [](kvh_space_desc &d) { d.tp_size = 0; }},
		{"pp_size", [](kvh_space_desc &d) { d.pp_size = 0; }},
		{"salt_len", [](kvh_space_desc &d) { d.salt = nullptr; }},
	};

	for (const auto &b : bad) {
		const Desc desc = rich();
		std::vector<kvh_group_desc> groups;
		kvh_space_desc fields = desc.fields(groups);
		Log log;

		b.second(fields);
		EXPECT_EQ(-EINVAL, make(fields).err) << b.first;
		EXPECT_NE(0u, log.count(b.first)) << log.text();
		EXPECT_EQ(1u, log.count("\n")) << log.text();
	}
}

TEST(Space, BadGroupsAndPlanes)
{
	const std::pair<const char *, void (*)(Desc &)> bad[] = {
		{"kind", [](Desc &d) { d.layout.groups[0].fields.kind = 3; }},
		{"format", [](Desc &d) { d.layout.groups[0].fields.format = 2; }},
		{"page_tokens", [](Desc &d) { d.layout.groups[0].fields.page_tokens = 3; }},
		{"page_tokens", [](Desc &d) { d.layout.groups[0].fields.page_tokens = 0; }},
		{"window_tokens", [](Desc &d) { d.layout.groups[1].fields.window_tokens = 0; }},
		{"window_tokens", [](Desc &d) { d.layout.groups[0].fields.window_tokens = 8; }},
		{"replicated", [](Desc &d) { d.layout.groups[0].fields.replicated = 2; }},
		{"n_planes", [](Desc &d) { d.layout.groups[0].shapes.clear(); }},
		{"order", [](Desc &d) { d.layout.groups[0].shapes[0].order = 2; }},
		{"reserved", [](Desc &d) { d.layout.groups[0].shapes[0].reserved = 1; }},
		{"heads", [](Desc &d) { d.layout.groups[0].shapes[0].heads = 0; }},
		{"layer", [](Desc &d) { d.layout.groups[0].shapes[0].layer = 9; }},
		{"page_bytes", [](Desc &d) { d.layout.groups[2].shapes[0].page_bytes = 0; }},
		{"4096",
		 [](Desc &d) {
			 d.layout.groups[2].shapes.assign(KVH_PLANES_MAX,
							  d.layout.groups[2].shapes[0]);
		 }},
	};

	for (const auto &b : bad) {
		Desc desc = rich();
		Log log;

		b.second(desc);
		EXPECT_EQ(-EINVAL, make(desc).err) << b.first;
		EXPECT_NE(0u, log.count(b.first)) << b.first << ": " << log.text();
		EXPECT_EQ(1u, log.count("\n")) << b.first << ": " << log.text();
	}
}

/* An older program's struct is smaller: nothing behind it may be touched. */
TEST(Space, AnUnknownSizeIsNotReadBeyond)
{
	Engine engine;
	kvh_space_t space = 5;
	const std::unique_ptr<unsigned char[]> small(new unsigned char[sizeof(size_t)]);
	auto *desc = reinterpret_cast<kvh_space_desc *>(small.get());

	kvh_space_desc_init(desc, sizeof(size_t));
	EXPECT_EQ(-EINVAL, kvh_space_open(engine.get(), desc, &space));
	EXPECT_EQ(5u, space);
}

} // namespace
