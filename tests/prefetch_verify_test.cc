// SPDX-License-Identifier: Apache-2.0
//
// prefetch_verify_test.cc - reads that lie: bytes that are not the chunk's are
// never leased, but counted, and deleted where they were. Each test first shows,
// by a raw read, that the adapter does hand them over as if all were well.
#include "tests/controller_jobs.h"

namespace
{

using namespace ctl;
using N = struct kvh_adapter_counters;
using M = struct kvh_metrics;

Options with(std::vector<std::string> l2, std::vector<Group> groups = {Group()})
{
	Options options;

	options.l2 = std::move(l2);
	options.groups = std::move(groups);
	return options;
}

void expect_prefix(Rig &rig, const Prefetch &p, uint32_t usable)
{
	EXPECT_EQ(p.usable, usable);
	EXPECT_EQ(p.leased(), p.n_ok);
	for (uint32_t chunk = 0; chunk < p.prefix.n_chunks; chunk++) {
		if (chunk < usable)
			EXPECT_TRUE(rig.shows(p.lease(chunk), rig.key(chunk))) << chunk;
		else
			EXPECT_EQ(p.lease(chunk), KVH_NONE) << chunk;
	}
}

struct Damage {
	const char *name, *script;
};

class PrefetchDamage : public ::testing::TestWithParam<Damage>
{
};

// The negative control is the raw read: the adapter says 0 and hands over bytes
// that are not the chunk's. Only then does it mean something that no lease came.
TEST_P(PrefetchDamage, IsNeverLeasedButCountedAndDeleted)
{
	Log log;
	Rig rig(with({"fault:a,next=mem", "mem:b"}));
	Fault fault("a");

	for (uint64_t i = 0; i < 3; i++)
		rig.preload(0, rig.key(i));
	fault.script(GetParam().script);
	{
		l2test::Buffer frame(rig.frame_bytes());

		ASSERT_EQ(rig.raw(0, KVH_L2_GET, rig.key(0), &frame), 0);
		ASSERT_EQ(rig.verify(frame, rig.key(0)), -EBADMSG);
	}
	Prefetch p(rig, hashes(3));

	p.start().wait();
	EXPECT_EQ(p.status, 0);
	expect_prefix(rig, p, 0);
	// It ends with the first; the others are read to their end all the same.
	rig.until([&] { return rig.metric(&M::corrupt) == 3; });
	EXPECT_EQ(rig.count(0, &N::get_corrupt), 3u);
	EXPECT_EQ(rig.count(0, &N::gets), 0u);
	EXPECT_EQ(log.count("is not what was stored"), 3u);
	EXPECT_EQ(rig.l1_stats().used_bytes, 0u);
	rig.until([&] { return rig.count(0, &N::inflight) == 0; });
	EXPECT_EQ(rig.count(0, &N::deletes), 3u);
	for (uint64_t i = 0; i < 3; i++)
		EXPECT_FALSE(rig.in_l2(0, rig.key(i)));

	// What is stored again is put, read, and sound.
	fault.script("");
	for (uint64_t i = 0; i < 3; i++)
		rig.store_wait(rig.key(i));
	rig.drain();
	EXPECT_EQ(rig.count(0, &N::puts), 3u);
	kvh_l1_evict(rig.l1, 0);
	Prefetch again(rig, hashes(3));

	again.start().wait();
	expect_prefix(rig, again, 3);
}

TEST_P(PrefetchDamage, TheSecondAdapterServes)
{
	Log log;
	Rig rig(with(
		{std::string("fault:a,script=") + GetParam().script + ",next=mem", "mem:b"}));

	for (uint64_t i = 0; i < 5; i++)
		for (uint32_t a = 0; a < 2; a++)
			rig.preload(a, rig.key(i));
	Prefetch p(rig, hashes(5));

	p.start().wait();
	EXPECT_EQ(p.status, 0);
	expect_prefix(rig, p, 5);
	EXPECT_EQ(rig.metric(&M::corrupt), 5u);
	EXPECT_EQ(rig.count(1, &N::gets), 5u);
	EXPECT_EQ(rig.count(1, &N::deletes), 0u); // deleted where it was bad
}

INSTANTIATE_TEST_SUITE_P(All, PrefetchDamage,
			 ::testing::Values(Damage{"Header", "get x*:corrupt=header"},
					   Damage{"Payload", "get x*:corrupt=payload"},
					   Damage{"AnyByte", "get x*:corrupt=0"},
					   Damage{"LastPage", "get x*:corrupt=4096"},
					   Damage{"ShortThatLies", "get x*:short=lie"}),
			 [](const auto &info) { return std::string(info.param.name); });

// A sound frame in the wrong place: of another key, another space, or a store
// that was erased and written anew. The header and its checksum are right.
TEST(PrefetchMisdirected, AnotherKeysFrameIsNotServed)
{
	Log log;
	Rig rig(with({"mem"},
		     {{KVH_GROUP_FULL, 0, false, 40}, {KVH_GROUP_FULL, 0, false, 40}}));
	const struct kvh_key wanted = rig.key(0, 0);
	const struct kvh_key others[] = {rig.key(1, 0), rig.key(0, 1), rig.key(0, 0, 1)};

	rig.preload(0, rig.key(0, 1));
	for (const struct kvh_key &other : others) {
		l2test::Buffer frame = rig.sealed(other), back(rig.frame_bytes());
		const uint64_t before = rig.metric(&M::corrupt);

		ASSERT_EQ(rig.raw(0, KVH_L2_PUT, wanted, &frame), 0);
		ASSERT_EQ(rig.raw(0, KVH_L2_GET, wanted, &back), 0);
		ASSERT_EQ(rig.verify(back, other), 0); // sound, but not it
		Prefetch p(rig, hashes(1));

		p.start().wait();
		EXPECT_EQ(p.usable, 0u);
		EXPECT_EQ(rig.metric(&M::corrupt), before + 1);
	}
}

TEST(PrefetchMisdirected, AnotherSpacesFrameIsNotServed)
{
	Log log;
	Rig rig(with({"mem"}));
	const struct kvh_key key = rig.key(0);
	l2test::Buffer frame(rig.frame_bytes());
	const struct kvh_hash parent = {};
	uint8_t digest[32];

	// The same 64-bit id, another descriptor: all 32 bytes are compared.
	memcpy(digest, rig.space->digest, sizeof(digest));
	digest[31] ^= 1;
	kvh_frame_fill(frame.data(), &key, digest, &parent, 1, rig.payload_bytes());
	kvh_frame_seal(frame.data());
	ASSERT_EQ(rig.raw(0, KVH_L2_PUT, key, &frame), 0);
	Prefetch p(rig, hashes(1));

	p.start().wait();
	EXPECT_EQ(p.usable, 0u);
	EXPECT_EQ(rig.metric(&M::corrupt), 1u);
}

TEST(PrefetchMisdirected, AnObjectOfAnotherSizeIsAFailure)
{
	Rig rig(with({"mem"}));
	l2test::Buffer larger(2 * rig.frame_bytes());

	ASSERT_EQ(rig.raw(0, KVH_L2_PUT, rig.key(0), &larger), 0);
	Prefetch p(rig, hashes(1));

	p.start().wait();
	EXPECT_EQ(p.usable, 0u);
	EXPECT_EQ(rig.count(0, &N::get_failed), 1u);
}

} // namespace
