// SPDX-License-Identifier: Apache-2.0
//
// l2_fault_test.cc - the fault adapter: its language, and that each action does
// what it says to the requests it names, and to no others.
#include "l2/fault.h"
#include "tests/l2_harness.h"

namespace l2test
{
namespace
{

std::vector<struct kvh_fault_rule> parse(const char *text)
{
	struct kvh_fault_rule *rules = nullptr;
	uint32_t n = 0;

	EXPECT_EQ(kvh_fault_parse(text, &rules, &n), 0) << text;
	std::vector<struct kvh_fault_rule> all(rules, rules + n);
	free(rules);
	return all;
}

TEST(FaultScript, Understood)
{
	EXPECT_TRUE(parse("").empty());
	EXPECT_TRUE(parse(" ; ").empty());

	const auto rules = parse(
		"put@3x2:fail=ENOSPC; get x*:delay=20;any:corrupt=header ;"
		"probe:short=lie;delete:fail=5;get:reorder=4;put:hang=hard;any@9:die;"
		"any:mute;get:corrupt=8192;put:short;get:hang;put:fail;clear:fail;flush:hang");
	const struct kvh_fault_rule want[] = {
		{KVH_L2_PUT, 3, 2, KVH_FAULT_FAIL, ENOSPC, 0},
		{KVH_L2_GET, 1, UINT64_MAX, KVH_FAULT_DELAY, 20, 0},
		{KVH_FAULT_ANY_OP, 1, 1, KVH_FAULT_CORRUPT, 0, 0},
		{KVH_L2_PROBE, 1, 1, KVH_FAULT_SHORT, 1, 0},
		{KVH_L2_DELETE, 1, 1, KVH_FAULT_FAIL, 5, 0},
		{KVH_L2_GET, 1, 1, KVH_FAULT_REORDER, 4, 0},
		{KVH_L2_PUT, 1, 1, KVH_FAULT_HANG, 1, 0},
		{KVH_FAULT_ANY_OP, 9, 1, KVH_FAULT_DIE, 0, 0},
		{KVH_FAULT_ANY_OP, 1, 1, KVH_FAULT_MUTE, 0, 0},
		{KVH_L2_GET, 1, 1, KVH_FAULT_CORRUPT, 8192, 0},
		{KVH_L2_PUT, 1, 1, KVH_FAULT_SHORT, 0, 0},
		{KVH_L2_GET, 1, 1, KVH_FAULT_HANG, 0, 0},
		{KVH_L2_PUT, 1, 1, KVH_FAULT_FAIL, EIO, 0},
		{KVH_L2_CLEAR, 1, 1, KVH_FAULT_FAIL, EIO, 0},
		{KVH_L2_FLUSH, 1, 1, KVH_FAULT_HANG, 0, 0},
	};

	ASSERT_EQ(rules.size(), sizeof(want) / sizeof(want[0]));
	for (size_t i = 0; i < rules.size(); i++) {
		EXPECT_EQ(rules[i].op, want[i].op) << i;
		EXPECT_EQ(rules[i].nth, want[i].nth) << i;
		EXPECT_EQ(rules[i].count, want[i].count) << i;
		EXPECT_EQ(rules[i].action, want[i].action) << i;
		EXPECT_EQ(rules[i].arg, want[i].arg) << i;
	}
}

TEST(FaultScript, RefusedWithThePlace)
{
	for (const char *text : {"x",
				 "put",
				 "put:",
				 "put:nosuch",
				 "put@0:die",
				 "put@:die",
				 "putx:die",
				 "put x0:die",
				 "put:delay",
				 "put:delay=",
				 "put:delay=-1",
				 "put:fail=EWHAT",
				 "put:fail=0",
				 "put:fail=99999",
				 "put:reorder=1",
				 "put:reorder",
				 "put:die=1",
				 "put:hang=soft",
				 "put:short=1",
				 "put:die get:die",
				 "put:die;get",
				 "put@99999999999999999999:die"}) {
		struct kvh_fault_rule *rules = nullptr;
		uint32_t n = 77;
		Log log;

		EXPECT_EQ(kvh_fault_parse(text, &rules, &n), -EINVAL) << text;
		EXPECT_EQ(rules, nullptr);
		EXPECT_EQ(n, 77u);
		EXPECT_EQ(log.count("\n"), 1u) << text;
		EXPECT_NE(log.text().find(text), std::string::npos) << log.text();
	}
}

TEST(FaultOpen, RefusesWhatItCannotWrap)
{
	Log log;

	EXPECT_EQ(Adapter("fault").error(), -EINVAL);
	EXPECT_EQ(Adapter("fault:next=nosuch").error(), -ENOENT);
	EXPECT_EQ(Adapter("fault:next=mem:size=1").error(), -EINVAL);
	EXPECT_EQ(Adapter("fault:script=put,next=mem").error(), -EINVAL);
	EXPECT_EQ(Adapter("fault:a,next=fault:script=die,next=mem").error(), -EINVAL);
	EXPECT_EQ(kvh_fault_find("a"), nullptr) << "one that failed to open is to be found";
}

class Fault : public ::testing::Test
{
      protected:
	void open(const std::string &script, const std::string &next = "mem:size=64M")
	{
		l2_ = std::make_unique<Adapter>("fault:test,script=" + script +
						",next=" + next);
		ASSERT_EQ(l2_->error(), 0);
		handle_ = kvh_fault_find("test");
		ASSERT_NE(handle_, nullptr);
	}
	struct kvh_fault_stats stats()
	{
		struct kvh_fault_stats stats;

		kvh_fault_read_stats(handle_, &stats);
		return stats;
	}
	// Bits that differ, and the first byte that does.
	static unsigned bits_apart(const Buffer &a, const Buffer &b, uint64_t *first = nullptr)
	{
		unsigned bits = 0;

		for (uint64_t i = a.size(); i-- > 0;) {
			const unsigned x = a.data()[i] ^ b.data()[i];

			bits += static_cast<unsigned>(__builtin_popcount(x));
			if (x != 0 && first != nullptr)
				*first = i;
		}
		return bits;
	}
	int verify(const Buffer &frame) const
	{
		const uint8_t digest[32] = {1};

		return kvh_frame_verify(frame.data(), frame.size(), &key_, digest, nullptr);
	}

	const struct kvh_key key_ = make_key(1);
	const Buffer frame_ = make_frame(key_, 100000), same_ = make_frame(key_, 100000);
	std::unique_ptr<Adapter> l2_;
	struct kvh_fault *handle_ = nullptr;
};

TEST_F(Fault, FailsTheNthAndNoOther)
{
	open("put@3x2:fail=ENOSPC;get@2:fail=EIO");
	for (uint64_t n = 1; n <= 6; n++) {
		const struct kvh_key key = make_key(n);
		const int want = n == 3 || n == 4 ? -ENOSPC : 0;

		EXPECT_EQ(l2_->put(key, make_frame(key, 4096)), want) << n;
		EXPECT_EQ(l2_->probe(key), want == 0 ? 8192 : -ENOENT) << n;
	}
	Buffer into(8192);
	EXPECT_EQ(l2_->get(make_key(1), into), 0);
	EXPECT_EQ(l2_->get(make_key(1), into), -EIO);
	EXPECT_EQ(l2_->get(make_key(1), into), 0);
	EXPECT_EQ(stats().applied[KVH_FAULT_FAIL], 3u);
	EXPECT_EQ(stats().accepted[KVH_L2_PUT], 6u);
	EXPECT_EQ(stats().accepted[KVH_L2_PROBE], 6u);
}

TEST_F(Fault, FailsForEverUntilTheScriptChanges)
{
	open("any x*:fail=EROFS");
	for (int i = 0; i < 5; i++)
		EXPECT_EQ(l2_->put(key_, frame_), -EROFS);
	EXPECT_EQ(l2_->probe(key_), -EROFS);
	ASSERT_EQ(kvh_fault_set_script(handle_, ""), 0);
	EXPECT_EQ(l2_->put(key_, frame_), 0);

	Log log;
	EXPECT_EQ(kvh_fault_set_script(handle_, "nonsense"), -EINVAL);
	EXPECT_EQ(l2_->put(key_, frame_), 0) << "a refused script changes nothing";
}

TEST_F(Fault, CorruptsWhatAGetBrings)
{
	open("get@2:corrupt=payload;get@3:corrupt=header");
	Buffer clean(frame_.size()), payload(frame_.size()), header(frame_.size());
	uint64_t at = 0;

	ASSERT_EQ(l2_->put(key_, frame_), 0);
	ASSERT_EQ(l2_->get(key_, clean), 0);
	EXPECT_EQ(verify(clean), 0);
	ASSERT_EQ(l2_->get(key_, payload), 0);
	EXPECT_EQ(bits_apart(payload, frame_, &at), 1u);
	EXPECT_GE(at, 4096u);
	EXPECT_EQ(verify(payload), -EBADMSG);
	ASSERT_EQ(l2_->get(key_, header), 0);
	EXPECT_EQ(bits_apart(header, frame_, &at), 1u);
	EXPECT_LT(at, 4096u);
	EXPECT_EQ(verify(header), -EBADMSG);
	ASSERT_EQ(l2_->get(key_, clean), 0);
	EXPECT_TRUE(clean == frame_) << "the object itself is unharmed";
}

TEST_F(Fault, CorruptsWhatAPutStoresButNotItsBuffer)
{
	open("put:corrupt");
	Buffer into(frame_.size());

	ASSERT_EQ(l2_->put(key_, frame_), 0);
	EXPECT_TRUE(frame_ == same_) << "the caller's buffer was written";
	ASSERT_EQ(l2_->get(key_, into), 0);
	EXPECT_EQ(bits_apart(into, frame_), 1u);
	EXPECT_EQ(verify(into), -EBADMSG);
}

TEST_F(Fault, CorruptsAFrameWithoutPayload)
{
	open("get:corrupt");
	const Buffer empty = make_frame(key_, 0);
	Buffer into(empty.size());

	ASSERT_EQ(l2_->put(key_, empty), 0);
	ASSERT_EQ(l2_->get(key_, into), 0);
	EXPECT_EQ(bits_apart(into, empty), 1u);
}

TEST_F(Fault, AShortGetIsAnErrorOrALie)
{
	open("get@1:short;get@2:short=lie");
	Buffer honest(frame_.size()), lie(frame_.size()), clean(frame_.size());

	ASSERT_EQ(l2_->put(key_, frame_), 0);
	EXPECT_EQ(l2_->get(key_, honest), -EIO);
	EXPECT_EQ(l2_->get(key_, lie), 0);
	EXPECT_EQ(memcmp(lie.data(), frame_.data(), 4096), 0) << "the header came";
	EXPECT_EQ(lie.data()[lie.size() - 1], 0xEE) << "the tail is what was there before";
	EXPECT_EQ(verify(lie), -EBADMSG);
	EXPECT_EQ(l2_->get(key_, clean), 0);
	EXPECT_TRUE(clean == frame_);
}

TEST_F(Fault, AShortPutIsAnErrorOrALie)
{
	open("put@1:short;put@2:short=lie");
	Buffer into(frame_.size());

	EXPECT_EQ(l2_->put(key_, frame_), -EIO);
	EXPECT_EQ(l2_->probe(key_), -ENOENT);
	EXPECT_EQ(l2_->put(key_, frame_), 0);
	EXPECT_TRUE(frame_ == same_);
	ASSERT_EQ(l2_->get(key_, into), 0);
	EXPECT_EQ(memcmp(into.data(), frame_.data(), 4096), 0);
	EXPECT_EQ(verify(into), -EBADMSG);
}

TEST_F(Fault, ReordersCompletions)
{
	open("probe x*:reorder=3");
	std::vector<struct kvh_l2_req> reqs(5, make_req(KVH_L2_PROBE, key_));

	for (struct kvh_l2_req &req : reqs)
		ASSERT_EQ(l2_->submit(&req), 0);
	const auto done = l2_->wait(5);
	ASSERT_EQ(done.size(), 5u);
	for (size_t i = 0; i < 5; i++)
		EXPECT_EQ(done[i], &reqs[4 - i]) << i;

	// Fewer than asked for are not kept back for ever.
	struct kvh_l2_req one = make_req(KVH_L2_PROBE, key_);
	EXPECT_EQ(l2_->run(&one), -ENOENT);
}

TEST_F(Fault, DelaysByATimerAndLetsOthersPass)
{
	open("put:delay=30");
	struct kvh_l2_req late = make_req(KVH_L2_PUT, key_, frame_.data(), frame_.size());
	struct timespec before, after;

	clock_gettime(CLOCK_MONOTONIC, &before);
	ASSERT_EQ(l2_->submit(&late), 0);
	EXPECT_EQ(l2_->probe(make_key(2)), -ENOENT) << "another passes it";
	ASSERT_EQ(l2_->wait(1).size(), 1u);
	clock_gettime(CLOCK_MONOTONIC, &after);
	EXPECT_EQ(late.status, 0);
	EXPECT_GE((after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec,
		  30000000);
	EXPECT_EQ(l2_->probe(key_), static_cast<int64_t>(frame_.size()));
}

TEST_F(Fault, ADelayedOneCanBeCancelled)
{
	open("put:delay=86400000");
	struct kvh_l2_req req = make_req(KVH_L2_PUT, key_, frame_.data(), frame_.size());

	ASSERT_EQ(l2_->submit(&req), 0);
	EXPECT_TRUE(l2_->reap().empty());
	l2_->ops()->cancel(l2_->self(), &req);
	ASSERT_EQ(l2_->wait(1).size(), 1u);
	EXPECT_EQ(req.status, -ECANCELED);
	EXPECT_EQ(l2_->probe(key_), -ENOENT);
}

TEST_F(Fault, HangsUntilReleased)
{
	open("get:hang");
	Buffer into(frame_.size());
	struct kvh_l2_req get = make_req(KVH_L2_GET, key_, into.data(), into.size());

	ASSERT_EQ(l2_->put(key_, frame_), 0);
	ASSERT_EQ(l2_->submit(&get), 0);
	kvh_fault_wait_held(handle_, 1);
	EXPECT_EQ(stats().held, 1u);
	EXPECT_EQ(l2_->probe(key_), static_cast<int64_t>(frame_.size())) << "others go on";
	EXPECT_EQ(into.data()[0], 0xEE) << "not touched while it hangs";
	kvh_fault_release(handle_);
	ASSERT_EQ(l2_->wait(1).size(), 1u);
	EXPECT_EQ(get.status, 0);
	EXPECT_TRUE(into == frame_) << "a late transfer still writes";
	EXPECT_EQ(stats().held, 0u);
}

TEST_F(Fault, AHangEndsWithCancelOrClose)
{
	open("put@1x2:hang");
	struct kvh_l2_req one = make_req(KVH_L2_PUT, key_, frame_.data(), frame_.size()),
			  two = one;

	ASSERT_EQ(l2_->submit(&one), 0);
	ASSERT_EQ(l2_->submit(&two), 0);
	l2_->ops()->cancel(l2_->self(), &one);
	ASSERT_EQ(l2_->wait(1).size(), 1u);
	EXPECT_EQ(one.status, -ECANCELED);
	EXPECT_EQ(l2_->close(), 0) << "the other is dropped";
	EXPECT_EQ(kvh_fault_find("test"), nullptr);
}

TEST_F(Fault, AHardHangOutlastsCancelAndClose)
{
	open("put:hang=hard");
	struct kvh_l2_req req = make_req(KVH_L2_PUT, key_, frame_.data(), frame_.size());
	void *self = l2_->self();

	ASSERT_EQ(l2_->submit(&req), 0);
	l2_->ops()->cancel(self, &req);
	EXPECT_TRUE(l2_->reap().empty());
	EXPECT_EQ(l2_->close(1), -ETIMEDOUT) << "a deadline that has passed";
	EXPECT_EQ(req.status, KVH_PENDING);
	kvh_fault_release(handle_);
	EXPECT_EQ(l2_->ops()->close(self, KVH_L2_DEADLINE_NO), 0);
}

TEST_F(Fault, ADeadOneFailsAllFromThere)
{
	open("any@4:die;put@2:hang");
	struct kvh_l2_req hung = make_req(KVH_L2_PUT, make_key(2), frame_.data(),
					  frame_.size());

	ASSERT_EQ(l2_->put(key_, frame_), 0);
	ASSERT_EQ(l2_->submit(&hung), 0);
	EXPECT_EQ(l2_->probe(key_), static_cast<int64_t>(frame_.size()));
	EXPECT_EQ(l2_->probe(key_), -EIO) << "the fourth";
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(l2_->put(key_, frame_), -EIO);
		EXPECT_EQ(l2_->del(key_), -EIO);
	}
	kvh_fault_release(handle_);
	ASSERT_EQ(l2_->wait(1).size(), 1u);
	EXPECT_EQ(hung.status, -EIO) << "also what was on its way";
	ASSERT_EQ(kvh_fault_set_script(handle_, "any@2:die"), 0);
	EXPECT_EQ(l2_->probe(key_), static_cast<int64_t>(frame_.size())) << "brought back";
	EXPECT_EQ(l2_->probe(make_key(2)), -EIO);

	// mem works when it is reaped: the first is with it when the second dies.
	ASSERT_EQ(kvh_fault_set_script(handle_, "any@2:die"), 0);
	struct kvh_l2_req one = make_req(KVH_L2_PROBE, key_), two = one;
	ASSERT_EQ(l2_->submit(&one), 0);
	ASSERT_EQ(l2_->submit(&two), 0);
	ASSERT_EQ(l2_->wait(2).size(), 2u);
	EXPECT_EQ(one.status, -EIO);
	EXPECT_EQ(two.status, -EIO);
}

TEST_F(Fault, AMuteOneIsFoundBySweepsOnly)
{
	open("put:mute");
	struct kvh_l2_req req = make_req(KVH_L2_PUT, key_, frame_.data(), frame_.size());

	ASSERT_EQ(l2_->submit(&req), 0);
	EXPECT_FALSE(l2_->readable());
	const auto done = l2_->reap();
	ASSERT_EQ(done.size(), 1u);
	EXPECT_EQ(req.status, 0);
	EXPECT_FALSE(l2_->readable());
}

TEST_F(Fault, WrapsItself)
{
	open("put@1:fail=EIO", "fault:inner,script=put@1:fail=ENOSPC,next=mem:size=1M");
	EXPECT_NE(kvh_fault_find("inner"), nullptr);
	EXPECT_EQ(l2_->put(key_, frame_), -EIO);
	EXPECT_EQ(l2_->put(key_, frame_), -ENOSPC);
	EXPECT_EQ(l2_->put(key_, frame_), 0);
	EXPECT_EQ(l2_->usage().capacity_bytes, 1u << 20);
}

// Everything at once, over an adapter with threads: each ends exactly once.
TEST_F(Fault, AllActionsTogetherEndEachOnce)
{
	const Dir dir;

	open("put@3x5:fail;get@2x9:corrupt;any@7x4:delay=1;probe "
	     "x*:reorder=5;get@20x3:short=lie;"
	     "put@10x5:hang;delete@2:delay=2",
	     "fs:" + dir.path() + "/fs");
	std::vector<Buffer> memory;
	std::vector<struct kvh_l2_req> reqs;
	size_t ended = 0, submitted = 0;

	for (int i = 0; i < 400; i++)
		memory.push_back(make_frame(make_key(static_cast<uint64_t>(i)), 8192));
	for (int i = 0; i < 400; i++) {
		const size_t n = static_cast<size_t>(i);
		const auto op = static_cast<enum kvh_l2_op>(i % 4);
		const bool has_buf = op == KVH_L2_PUT || op == KVH_L2_GET;

		reqs.push_back(make_req(op, make_key(n / 4),
					has_buf ? memory[n].data() : nullptr,
					has_buf ? memory[n].size() : 0));
	}
	std::vector<bool> seen(reqs.size());
	while (ended < reqs.size()) {
		while (submitted < reqs.size() && l2_->submit(&reqs[submitted]) == 0)
			submitted++;
		if (stats().held == 5)
			kvh_fault_release(handle_);
		for (struct kvh_l2_req *req : l2_->wait(1)) {
			const size_t n = static_cast<size_t>(req - reqs.data());

			ASSERT_FALSE(seen[n]);
			ASSERT_NE(req->status, KVH_PENDING);
			seen[n] = true;
			ended++;
		}
	}
	EXPECT_EQ(stats().applied[KVH_FAULT_HANG], 5u);
	EXPECT_EQ(stats().applied[KVH_FAULT_FAIL], 5u);
}

TEST_F(Fault, AClearThatFailsClearsNothing)
{
	struct kvh_l2_req clear = make_req(KVH_L2_CLEAR, make_key(0));

	open("");
	ASSERT_EQ(l2_->put(make_key(1), make_frame(make_key(1), 4096)), 0);
	ASSERT_EQ(kvh_fault_set_script(handle_, "clear:fail"), 0);
	EXPECT_EQ(l2_->run(&clear), -EIO);
	EXPECT_GT(l2_->probe(make_key(1)), 0);
	EXPECT_EQ(l2_->run(&clear), 0);
	EXPECT_EQ(l2_->probe(make_key(1)), -ENOENT);
	EXPECT_EQ(stats().accepted[KVH_L2_CLEAR], 2u);
}

TEST_F(Fault, ItIsSickWhileItIsDead) // 14
{
	const char *why = nullptr;

	open("");
	EXPECT_EQ(l2_->ops()->health(l2_->self(), &why), 0);
	ASSERT_EQ(kvh_fault_set_script(handle_, "probe:die"), 0);
	EXPECT_EQ(l2_->probe(make_key(1)), -EIO);
	EXPECT_EQ(l2_->ops()->health(l2_->self(), &why), -EIO);
	ASSERT_NE(why, nullptr);
	ASSERT_EQ(kvh_fault_set_script(handle_, ""), 0);
	EXPECT_EQ(l2_->ops()->health(l2_->self(), &why), 0);
}

} // namespace
} // namespace l2test
