// SPDX-License-Identifier: Apache-2.0
//
// l2_flow_test.cc - every adapter held to l2/l2.h with many requests at once:
// exactly once, depth, the event fd, cancel, close. Rule numbers are cited.
#include "tests/l2_harness.h"

#include <map>
#include <set>

namespace l2test
{
namespace
{

class Flow : public L2
{
};

TEST_P(Flow, FullDepthThenAgain) // 3
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	const uint32_t depth = l2->caps().max_inflight;
	std::vector<struct kvh_l2_req> reqs(depth, make_req(KVH_L2_PROBE, make_key(1)));
	struct kvh_l2_req more = make_req(KVH_L2_PROBE, make_key(2)), copy;

	memset(more.scratch, 0xA5, sizeof(more.scratch));
	memcpy(&copy, &more, sizeof(more));
	for (struct kvh_l2_req &req : reqs) {
		ASSERT_EQ(l2->submit(&req), 0) << &req - reqs.data() << " of " << depth;
	}
	ASSERT_EQ(l2->submit(&more), -EAGAIN);
	EXPECT_EQ(memcmp(&copy, &more, sizeof(more)), 0) << "a refused request was touched";

	ASSERT_TRUE(l2->readable(kGuardMs));
	auto first = l2->reap(1);
	while (first.empty() && l2->readable(kGuardMs)) // spurious wake-ups are legal
		first = l2->reap(1);
	ASSERT_EQ(first.size(), 1u);
	ASSERT_EQ(l2->submit(&more), 0) << "one was reaped: there is room for one";

	std::set<struct kvh_l2_req *> seen = {first[0]};
	for (struct kvh_l2_req *req : l2->wait(depth)) {
		EXPECT_TRUE(seen.insert(req).second) << "reaped twice";
	}
	EXPECT_EQ(seen.size(), depth + 1u);
	EXPECT_EQ(seen.count(&more), 1u);
	EXPECT_TRUE(l2->reap().empty());
}

TEST_P(Flow, ReapOneByOneKeepsTheFdReadable) // 4
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	const uint32_t n = std::min(l2->caps().max_inflight, 32u);
	std::vector<struct kvh_l2_req> reqs(n, make_req(KVH_L2_PROBE, make_key(1)));
	std::set<struct kvh_l2_req *> seen;

	for (struct kvh_l2_req &req : reqs) {
		ASSERT_EQ(l2->submit(&req), 0);
	}
	while (seen.size() < n) {
		ASSERT_TRUE(l2->readable(kGuardMs)) << seen.size() << " of " << n;
		const auto done = l2->reap(1);

		ASSERT_LE(done.size(), 1u);
		for (struct kvh_l2_req *req : done) {
			ASSERT_TRUE(seen.insert(req).second);
		}
	}
	for (int i = 0; i < 3; i++) {
		EXPECT_TRUE(l2->reap().empty());
	}
	EXPECT_FALSE(l2->readable()) << "idle, drained, and still readable: it would spin";
}

TEST_P(Flow, ReapOfNoneTakesNone) // 4
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	struct kvh_l2_req req = make_req(KVH_L2_PROBE, make_key(1));

	EXPECT_EQ(l2->ops()->reap(l2->self(), nullptr, 0), 0u);
	ASSERT_EQ(l2->submit(&req), 0);
	EXPECT_EQ(l2->ops()->reap(l2->self(), nullptr, 0), 0u);
	EXPECT_EQ(l2->wait(1).size(), 1u) << "the wake-up was lost";
}

TEST_P(Flow, TheFdStaysTheSame)
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	const int fd = l2->ops()->event_fd(l2->self());
	const struct kvh_key key = make_key(1);

	ASSERT_EQ(l2->put(key, make_frame(key, 4096)), 0);
	EXPECT_EQ(l2->ops()->event_fd(l2->self()), fd);
}

// A cancelled one ends once, and its status tells the truth.
TEST_P(Flow, CancelledRequestsEndOnce) // 3, 7
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	const uint32_t n = std::min(l2->caps().max_inflight, 24u);
	std::vector<struct kvh_l2_req> reqs;
	std::vector<Buffer> frames;
	std::set<struct kvh_l2_req *> seen;

	if (l2->ops()->cancel == nullptr)
		GTEST_SKIP() << "has no cancel";
	for (uint32_t i = 0; i < n; i++) {
		frames.push_back(make_frame(make_key(i), 65536, i));
		reqs.push_back(
			make_req(KVH_L2_PUT, make_key(i), frames[i].data(), frames[i].size()));
	}
	for (struct kvh_l2_req &req : reqs) {
		ASSERT_EQ(l2->submit(&req), 0);
	}
	for (size_t i = 0; i < n; i += 2) {
		reqs[i].cancelled = true;
		l2->ops()->cancel(l2->self(), &reqs[i]);
	}
	l2->ops()->cancel(l2->self(), &reqs[0]); // again: harmless
	for (struct kvh_l2_req *req : l2->wait(n)) {
		EXPECT_TRUE(seen.insert(req).second) << "reaped twice";
	}
	EXPECT_EQ(seen.size(), n);
	for (size_t i = 0; i < n; i++) {
		Buffer into(frames[i].size());

		if (reqs[i].status != 0) {
			EXPECT_TRUE(i % 2 == 0 && reqs[i].status == -ECANCELED)
				<< i << ": " << reqs[i].status;
		}
		EXPECT_EQ(l2->get(reqs[i].key, into),
			  reqs[i].status == 0 && keeps() ? 0 : -ENOENT)
			<< i;
	}
}

TEST_P(Flow, AGetBesidePutsSeesOneOfThem) // 7
{
	const auto l2 = open();
	ASSERT_TRUE(l2);
	const struct kvh_key key = make_key(1);
	std::vector<Buffer> versions;
	unsigned found = 0;

	if (!keeps() || l2->caps().max_inflight < 4)
		GTEST_SKIP() << "keeps nothing, or one at a time";
	for (uint64_t v = 0; v < 8; v++)
		versions.push_back(make_frame(key, 256 << 10, v));
	for (int round = 0; round < 40; round++) {
		const Buffer &frame = versions[static_cast<size_t>(round) % versions.size()];
		std::vector<Buffer> into;
		std::vector<struct kvh_l2_req> reqs;

		for (int i = 0; i < 3; i++)
			into.emplace_back(frame.size());
		for (int i = 0; i < 3; i++)
			reqs.push_back(make_req(KVH_L2_GET, key,
						into[static_cast<size_t>(i)].data(),
						frame.size()));
		reqs.insert(reqs.begin() + round % 3,
			    make_req(KVH_L2_PUT, key, frame.data(), frame.size()));
		for (struct kvh_l2_req &req : reqs) {
			ASSERT_EQ(l2->submit(&req), 0);
		}
		ASSERT_EQ(l2->wait(reqs.size()).size(), reqs.size());
		for (const struct kvh_l2_req &req : reqs) {
			if (req.op == KVH_L2_PUT) {
				ASSERT_EQ(req.status, 0);
			}
			if (req.op == KVH_L2_PUT || req.status == -ENOENT)
				continue;
			ASSERT_EQ(req.status, 0) << "round " << round;
			EXPECT_TRUE(std::any_of(versions.begin(), versions.end(),
						[&](const Buffer &v) {
							return memcmp(v.data(), req.buf,
								      v.size()) == 0;
						}))
				<< "a mixture, in round " << round;
			found++;
		}
	}
	EXPECT_GT(found, 0u);
}

TEST_P(Flow, CloseWithRequestsInFlight) // 2
{
	std::vector<Buffer> frames;
	std::vector<struct kvh_l2_req> reqs;
	auto l2 = open();
	ASSERT_TRUE(l2);
	const uint32_t n = std::min(l2->caps().max_inflight, 16u);

	for (uint32_t i = 0; i < n; i++)
		frames.push_back(make_frame(make_key(i), 1 << 20, i));
	for (uint32_t i = 0; i < n; i++)
		reqs.push_back(
			make_req(KVH_L2_PUT, make_key(i), frames[i].data(), frames[i].size()));
	for (struct kvh_l2_req &req : reqs) {
		ASSERT_EQ(l2->submit(&req), 0);
	}
	ASSERT_EQ(l2->close(), 0);
	for (const Buffer &frame : frames) // nobody uses them any more: the sanitizers look
		memset(frame.data(), 0, frame.size());

	// Each is there whole, or not at all.
	l2 = open();
	ASSERT_TRUE(l2);
	for (uint32_t i = 0; i < n; i++) {
		const Buffer frame = make_frame(make_key(i), 1 << 20, i);
		Buffer into(frame.size());
		const int status = l2->get(make_key(i), into);

		ASSERT_TRUE(status == 0 || status == -ENOENT) << i << ": " << status;
		if (status == 0) {
			EXPECT_TRUE(into == frame) << i;
		}
	}
}

// What may be under a key: the version of the last put that succeeded, or (after
// one that failed) that or nothing.
struct Expected {
	int64_t version = -1; // -1: nothing
	bool maybe_gone = true;
	bool changing = false;
};

struct Op : kvh_l2_req {
	std::unique_ptr<Buffer> memory;
	int64_t version = -1;
};

class Storm
{
      public:
	Storm(Adapter &l2, bool keeps, uint32_t seed) : l2_(l2), keeps_(keeps), random_(seed)
	{
	}

	void run(unsigned total)
	{
		const size_t depth = std::min<size_t>(l2_.caps().max_inflight, 40);
		unsigned started = 0;

		while (started < total || !running_.empty()) {
			// Every key may be taken: then something has to end first.
			for (int tries = 0;
			     tries < 16 && started < total && running_.size() < depth; tries++)
				started += start();
			if (running_.empty())
				continue;
			if (random_() % 4 == 0)
				cancel_one();
			for (struct kvh_l2_req *req : l2_.wait(1))
				end(static_cast<Op *>(req));
			if (::testing::Test::HasFatalFailure() ||
			    ::testing::Test::HasNonfatalFailure())
				return;
		}
	}
	void check_all()
	{
		for (size_t k = 0; k < kKeys; k++) {
			Op op;

			prepare(&op, KVH_L2_GET, k);
			ASSERT_GE(l2_.run(&op), -ENOENT);
			check_get(op, k);
		}
	}

      private:
	static constexpr size_t kKeys = 12;
	static constexpr uint64_t kPayload = 40000;

	void prepare(Op *op, enum kvh_l2_op kind, size_t k)
	{
		const struct kvh_key key = make_key(k);

		static_cast<struct kvh_l2_req &>(*op) = make_req(kind, key);
		op->owner = reinterpret_cast<void *>(k);
		if (kind == KVH_L2_PUT) {
			op->version = next_version_++;
			op->memory = std::make_unique<Buffer>(
				make_frame(key, kPayload, static_cast<uint64_t>(op->version)));
		} else if (kind == KVH_L2_GET) {
			op->memory = std::make_unique<Buffer>(kvh_frame_bytes(kPayload));
		} else {
			return;
		}
		op->buf = op->memory->data();
		op->len = op->memory->size();
	}
	unsigned start()
	{
		const size_t k = random_() % kKeys;
		auto kind = static_cast<enum kvh_l2_op>(random_() % 4);
		auto op = std::make_unique<Op>();
		const bool changes = kind == KVH_L2_PUT || kind == KVH_L2_DELETE;

		if (expected_[k].changing) // one PUT or DELETE at a time; GETs only apart, here
			return 0;
		if (changes && readers_[k] > 0)
			return 0;
		prepare(op.get(), kind, k);
		EXPECT_EQ(l2_.submit(op.get()), 0);
		expected_[k].changing = changes;
		readers_[k] += !changes;
		Op *raw = op.get();
		running_[raw] = std::move(op);
		return 1;
	}
	void cancel_one()
	{
		if (running_.empty() || l2_.ops()->cancel == nullptr)
			return;
		auto it = running_.begin();

		std::advance(it, random_() % running_.size());
		it->first->cancelled = true;
		l2_.ops()->cancel(l2_.self(), it->first);
	}
	void end(Op *op)
	{
		const size_t k = reinterpret_cast<size_t>(op->owner);
		const auto it = running_.find(op);

		ASSERT_NE(it, running_.end()) << "reaped twice, or never submitted";
		if (op->status == -ECANCELED) {
			ASSERT_TRUE(op->cancelled);
		} else {
			ASSERT_TRUE(op->status == 0 || op->status == -ENOENT) << op->status;
		}
		Expected &now = expected_[k];
		if (op->op == KVH_L2_PUT) {
			if (op->status == 0)
				now.version = keeps_ ? op->version : -1;
			now.maybe_gone = op->status != 0 || !keeps_;
		} else if (op->op == KVH_L2_DELETE) {
			if (op->status == -ECANCELED)
				now.maybe_gone = true;
			else
				now.version = -1;
		} else if (op->op == KVH_L2_GET) {
			check_get(*op, k);
		}
		if (op->op == KVH_L2_PUT || op->op == KVH_L2_DELETE)
			now.changing = false;
		else
			readers_[k]--;
		running_.erase(it);
	}
	void check_get(const Op &op, size_t k)
	{
		const Expected &now = expected_[k];

		if (op.status == -ECANCELED)
			return;
		if (op.status == -ENOENT) {
			EXPECT_TRUE(now.version < 0 || now.maybe_gone) << "lost: key " << k;
			return;
		}
		ASSERT_GE(now.version, 0) << "found what is not there: key " << k;
		EXPECT_TRUE(*op.memory == make_frame(make_key(k), kPayload,
						     static_cast<uint64_t>(now.version)))
			<< "key " << k << " is not at version " << now.version;
	}

	Adapter &l2_;
	bool keeps_;
	std::mt19937 random_;
	Expected expected_[kKeys];
	unsigned readers_[kKeys] = {};
	std::map<Op *, std::unique_ptr<Op>> running_;
	int64_t next_version_ = 0;
};

TEST_P(Flow, AStormOfAllEndsEachOnceAndRight) // 3, 5, 7
{
	const uint32_t seed = std::random_device{}();
	const auto l2 = open();
	ASSERT_TRUE(l2);
	Storm storm(*l2, keeps(), seed);

	SCOPED_TRACE("seed " + std::to_string(seed));
	storm.run(2000);
	if (HasFailure())
		return;
	storm.check_all();
	EXPECT_TRUE(l2->reap().empty());
}

INSTANTIATE_TEST_SUITE_P(Adapters, Flow, ::testing::ValuesIn(cases()), case_label);

} // namespace
} // namespace l2test
