// SPDX-License-Identifier: Apache-2.0
//
// l2_conformance_test.cc - every adapter held to l2/l2.h, whose rule numbers the
// tests cite: what single requests do. l2_flow_test.cc has many at once,
// l2_store_test.cc what is kept.
#include "tests/l2_harness.h"

#include <set>

namespace l2test
{
namespace
{

TEST(L2Registry, EveryAdapterHasACase)
{
	std::set<std::string> covered;

	for (const Case &c : cases())
		covered.insert(c.spec.substr(0, c.spec.find(':')));
	for (const struct kvh_l2_ops *const *p = kvh_l2_registry; *p != nullptr; p++) {
		EXPECT_EQ(covered.count((*p)->name), 1u) << (*p)->name;
	}
}

TEST(L2Registry, AnUnknownNameIsLoggedWithThoseThereAre)
{
	Log log;

	for (const char *spec : {"nvm:/x", "", ":", "memx", "me", "MEM"}) {
		const struct kvh_l2_ops *ops = nullptr;
		const char *conf = nullptr;

		EXPECT_EQ(kvh_l2_find(spec, &ops, &conf), -ENOENT) << spec;
		EXPECT_EQ(ops, nullptr);
		EXPECT_EQ(conf, nullptr);
	}
	EXPECT_NE(log.text().find("\"nvm\""), std::string::npos) << log.text();
	EXPECT_NE(log.text().find(" mem"), std::string::npos) << log.text();
}

TEST(L2Registry, FindsNameAndConf)
{
	const struct kvh_l2_ops *ops;
	const char *conf;

	ASSERT_EQ(kvh_l2_find("mem:a:b,size=1G", &ops, &conf), 0);
	EXPECT_STREQ(ops->name, "mem");
	EXPECT_STREQ(conf, "a:b,size=1G");
	ASSERT_EQ(kvh_l2_find("null", &ops, &conf), 0);
	EXPECT_STREQ(conf, "");
}

class Request : public L2
{
};

TEST_P(Request, TableAndCapsAreComplete)
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	const struct kvh_l2_ops *ops = l2->ops();

	EXPECT_EQ(ops->abi, KVH_L2_ABI);
	EXPECT_TRUE(ops->help && ops->close && ops->query && ops->submit && ops->reap);
	EXPECT_TRUE(ops->event_fd && ops->usage);
	EXPECT_GE(l2->caps().max_inflight, 1u);
	EXPECT_GE(l2->caps().align, 1u);
	EXPECT_LE(l2->caps().align, 4096u);
	EXPECT_EQ(l2->caps().align & (l2->caps().align - 1), 0u);
	EXPECT_GE(l2->caps().max_len, 8192u);
	EXPECT_TRUE(!l2->caps().local_index || ops->peek);
}

TEST_P(Request, AnUnknownOptionIsRefusedAndNamed)
{
	Log log;
	std::string spec = GetParam().spec;
	size_t at = spec.find("DIR");

	if (at != std::string::npos)
		spec.replace(at, 3, dir());
	if ((at = spec.find("SIZE")) != std::string::npos)
		spec.replace(at, 4, "64M");
	spec += (spec.back() == 'l' ? ":nosuch=1" : ",nosuch=1");

	const Adapter l2(spec);

	EXPECT_EQ(l2.error(), -EINVAL) << spec;
	EXPECT_NE(log.text().find("nosuch"), std::string::npos) << log.text();
}

TEST_P(Request, PutThenGetOfEverySize)
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	uint64_t n = 0;

	// A header alone, odd ones with padding, and a big one.
	for (uint64_t payload :
	     {0ull, 1ull, 4096ull, 4097ull, 65536ull, 1000000ull, 3ull << 20}) {
		const struct kvh_key key = make_key(n++);
		const Buffer frame = make_frame(key, payload);
		Buffer into(frame.size());

		ASSERT_EQ(l2->put(key, frame), 0) << payload;
		ASSERT_EQ(l2->get(key, into), keeps() ? 0 : -ENOENT) << payload;
		if (keeps()) {
			EXPECT_TRUE(into == frame) << payload;
		}
	}
}

TEST_P(Request, WhatIsMissingIsNotFound) // 6
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	const Buffer into(8192);

	ASSERT_EQ(l2->put(make_key(1), make_frame(make_key(1), 4096)), 0);
	EXPECT_EQ(l2->get(make_key(2), into), -ENOENT);
	EXPECT_EQ(l2->probe(make_key(2)), -ENOENT);
	EXPECT_EQ(l2->del(make_key(2)), -ENOENT);
}

TEST_P(Request, AnotherLengthIsAnError) // 5
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	const struct kvh_key key = make_key(1);
	const Buffer frame = make_frame(key, 65536);
	Buffer into(frame.size());

	if (!keeps())
		GTEST_SKIP() << "keeps nothing";
	ASSERT_EQ(l2->put(key, frame), 0);
	EXPECT_EQ(l2->get(key, Buffer(frame.size() - 4096)), -EIO);
	EXPECT_EQ(l2->get(key, Buffer(frame.size() + 4096)), -EIO);
	EXPECT_EQ(l2->get(key, Buffer(4096)), -EIO);
	ASSERT_EQ(l2->get(key, into), 0) << "the object itself is unharmed";
	EXPECT_TRUE(into == frame);
}

TEST_P(Request, ProbeTellsTheLength)
{
	const auto l2 = open();
	ASSERT_TRUE(l2);

	for (uint64_t payload : {0ull, 12288ull, 300000ull}) {
		const struct kvh_key key = make_key(payload + 1);
		const Buffer frame = make_frame(key, payload);

		ASSERT_EQ(l2->put(key, frame), 0);
		EXPECT_EQ(l2->probe(key),
			  keeps() ? static_cast<int64_t>(frame.size()) : -ENOENT);
	}
}

TEST_P(Request, OverwriteReplaces) // 7
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	const struct kvh_key key = make_key(1);
	uint64_t version = 0;

	if (!keeps())
		GTEST_SKIP() << "keeps nothing";
	for (uint64_t payload : {65536ull, 65536ull, 4096ull, 1000000ull, 0ull}) {
		const Buffer frame = make_frame(key, payload, version++);
		Buffer into(frame.size());

		ASSERT_EQ(l2->put(key, frame), 0);
		ASSERT_EQ(l2->get(key, into), 0);
		EXPECT_TRUE(into == frame) << "version " << version;
		EXPECT_EQ(l2->probe(key), static_cast<int64_t>(frame.size()));
	}
	if (l2->usage().objects != UINT64_MAX) {
		EXPECT_EQ(l2->usage().objects, 1u);
	}
}

TEST_P(Request, DeleteForgets)
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	const struct kvh_key key = make_key(1);
	const Buffer frame = make_frame(key, 65536), next = make_frame(key, 65536, 1);
	Buffer into(frame.size());

	if (!keeps())
		GTEST_SKIP() << "keeps nothing";
	ASSERT_EQ(l2->put(key, frame), 0);
	EXPECT_EQ(l2->del(key), 0);
	EXPECT_EQ(l2->get(key, into), -ENOENT);
	EXPECT_EQ(l2->probe(key), -ENOENT);
	EXPECT_EQ(l2->del(key), -ENOENT);
	ASSERT_EQ(l2->put(key, next), 0);
	ASSERT_EQ(l2->get(key, into), 0);
	EXPECT_TRUE(into == next);
}

// Keys that differ in a single place, whichever it is.
TEST_P(Request, NeighbouringKeysAreApart)
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	std::vector<struct kvh_key> keys = {make_key(1)};

	if (!keeps())
		GTEST_SKIP() << "keeps nothing";
	for (int i = 0; i < 16; i++) {
		keys.push_back(keys[0]);
		keys.back().hash.bytes[i] ^= 1;
	}
	for (struct kvh_key key :
	     {make_key(1, 0x5ACF), make_key(1, 0x5ACE, 1), make_key(1, 0x5ACE, KVH_RANK_ANY),
	      make_key(1, 0x5ACE, 0, 1), make_key(1, 0x5ACE, 1, 1),
	      make_key(1, UINT64_C(0x805ACE) << 40)})
		keys.push_back(key);
	for (size_t i = 0; i < keys.size(); i++) {
		ASSERT_EQ(l2->put(keys[i], make_frame(keys[i], 8192, i)), 0) << i;
	}
	EXPECT_EQ(l2->del(keys[3]), 0);
	for (size_t i = 0; i < keys.size(); i++) {
		const Buffer frame = make_frame(keys[i], 8192, i);
		Buffer into(frame.size());

		ASSERT_EQ(l2->get(keys[i], into), i == 3 ? -ENOENT : 0) << i;
		if (i != 3) {
			EXPECT_TRUE(into == frame) << i;
		}
	}
}

TEST_P(Request, ThePutBufferIsOnlyRead) // 10
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	const struct kvh_key key = make_key(1);
	const Buffer frame = make_frame(key, 100000), same = make_frame(key, 100000);

	ASSERT_EQ(l2->put(key, frame), 0);
	EXPECT_TRUE(frame == same);
}

TEST_P(Request, WhatViolatesCapsIsRefusedUntouched) // 3
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	const struct kvh_key key = make_key(1);
	const Buffer buf(16384, 0x5A), same(16384, 0x5A);
	std::vector<struct kvh_l2_req> bad = {
		make_req(KVH_L2_PUT, key, nullptr, 4096),
		make_req(KVH_L2_PUT, key, buf.data(), 0),
		make_req(KVH_L2_GET, key, nullptr, 4096),
		make_req(KVH_L2_GET, key, buf.data(), 0),
		make_req(KVH_L2_PUT, key, buf.data(), 4096),
	};
	const unsigned no_op = 77;

	memcpy(&bad.back().op, &no_op, sizeof(no_op));
	if (l2->caps().align > 1) {
		bad.push_back(make_req(KVH_L2_PUT, key, buf.data() + 1, 4096));
		bad.push_back(make_req(KVH_L2_GET, key, buf.data(), 4097));
	}
	if (l2->caps().max_len < UINT64_MAX - 4096) {
		const uint64_t len = (l2->caps().max_len / 4096 + 1) * 4096;

		bad.push_back(make_req(KVH_L2_PUT, key, buf.data(), len));
		bad.push_back(make_req(KVH_L2_GET, key, buf.data(), len));
	}
	for (struct kvh_l2_req &req : bad) {
		struct kvh_l2_req copy;

		memset(req.scratch, 0xA5, sizeof(req.scratch));
		memcpy(&copy, &req, sizeof(req));
		EXPECT_EQ(l2->submit(&req), -EINVAL) << &req - bad.data();
		EXPECT_EQ(memcmp(&copy, &req, sizeof(req)), 0) << &req - bad.data();
	}
	EXPECT_TRUE(l2->reap().empty());
	EXPECT_TRUE(buf == same);
	EXPECT_EQ(l2->probe(key), -ENOENT);
}

TEST_P(Request, AttachedAndUnattachedMemoryWorks)
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	const Buffer region(4 << 20);
	const struct kvh_key key = make_key(1);
	const Buffer frame = make_frame(key, 100000);
	int attached = -EOPNOTSUPP;

	if (l2->ops()->attach != nullptr)
		attached = l2->ops()->attach(l2->self(), region.data(), region.size());

	// Somewhere inside, as frames lie in a piece.
	uint8_t *out = region.data() + 8192, *in = region.data() + (2 << 20);
	struct kvh_l2_req put = make_req(KVH_L2_PUT, key, out, frame.size());
	struct kvh_l2_req get = make_req(KVH_L2_GET, key, in, frame.size());

	put.region = get.region = attached >= 0 ? static_cast<uint32_t>(attached)
						: KVH_L2_NO_REGION;
	memcpy(out, frame.data(), frame.size());
	ASSERT_EQ(l2->run(&put), 0);
	ASSERT_EQ(l2->run(&get), keeps() ? 0 : -ENOENT);
	if (keeps()) {
		EXPECT_EQ(memcmp(in, frame.data(), frame.size()), 0);
		EXPECT_EQ(in[frame.size()], 0xEE) << "written behind the buffer";
		EXPECT_EQ(in[-1], 0xEE) << "written before the buffer";
	}

	Buffer into(frame.size()); // not of the region
	EXPECT_EQ(l2->get(key, into), keeps() ? 0 : -ENOENT);
	if (keeps()) {
		EXPECT_TRUE(into == frame);
	}
}

// Memory that is pinned later: attached with requests out, which are not disturbed.
TEST_P(Request, MemoryIsAttachedWhileRequestsAreOut)
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	std::vector<Buffer> regions;
	std::vector<Buffer> frames;
	std::vector<struct kvh_l2_req> reqs(6);

	if (l2->ops()->attach == nullptr)
		GTEST_SKIP() << "takes no memory";
	for (uint64_t i = 0; i < reqs.size(); i++) {
		frames.push_back(make_frame(make_key(i), 100000, i));
		regions.emplace_back(2 << 20);
	}
	for (uint64_t i = 0; i < reqs.size(); i++) {
		const int attached = l2->ops()->attach(l2->self(), regions[i].data(),
						       regions[i].size());

		memcpy(regions[i].data(), frames[i].data(), frames[i].size());
		reqs[i] = make_req(KVH_L2_PUT, make_key(i), regions[i].data(),
				   frames[i].size());
		reqs[i].region = attached >= 0 ? static_cast<uint32_t>(attached)
					       : KVH_L2_NO_REGION;
		ASSERT_EQ(l2->submit(&reqs[i]), 0);
	}
	ASSERT_EQ(l2->wait(reqs.size()).size(), reqs.size());
	for (uint64_t i = 0; i < reqs.size(); i++) {
		Buffer into(frames[i].size());

		EXPECT_EQ(reqs[i].status, 0) << i;
		EXPECT_EQ(l2->get(make_key(i), into), keeps() ? 0 : -ENOENT);
		if (keeps()) {
			EXPECT_TRUE(into == frames[i]) << i;
		}
	}
}

INSTANTIATE_TEST_SUITE_P(Adapters, Request, ::testing::ValuesIn(cases()), case_label);

} // namespace
} // namespace l2test
