// SPDX-License-Identifier: Apache-2.0
//
// crash_ledger.h - what a run put and deleted and when it was told, and from that
// what an adapter opened after a crash may hold, and has to. For a store whose disk
// is a DiskModel, whose moments are the ledger's.
#ifndef KVH_TESTS_CRASH_LEDGER_H
#define KVH_TESTS_CRASH_LEDGER_H

#include "tests/disk_model.h"
#include "tests/l2_harness.h"

#include <functional>
#include <map>
#include <set>

namespace l2test
{

// When a change that was told of has to outlive a power cut.
enum class Promise {
	kEvery, // at once
	kPoint, // from the next point on: a close or a flush that succeeded
	kNever,
};

constexpr int64_t kGone = -1; // the version of a key that is not there

struct Change {
	int64_t version;     // or kGone: a delete
	uint64_t begin, end; // moments: accepted, told
};

// What was found wrong, counted, so that controls can ask for it.
struct Findings {
	unsigned opens = 0, failed_opens = 0;
	unsigned found = 0;    // objects that verify, and are what was put
	unsigned torn = 0;     // did not verify: a miss above us
	unsigned wrong = 0;    // was served, and nobody put it
	unsigned lost = 0;     // had to be there
	unsigned risen = 0;    // was replaced or deleted for good
	unsigned unknown = 0;  // keys that nobody put
	unsigned accounts = 0; // usage is not what is listed
	std::string first;

	bool clean() const
	{
		return failed_opens + wrong + lost + risen + unknown + accounts == 0;
	}
	void note(unsigned Findings::*what, const std::string &text)
	{
		(this->*what)++;
		if (first.empty())
			first = text;
	}
};

inline std::ostream &operator<<(std::ostream &os, const Findings &f)
{
	return os << f.opens << " opens, " << f.failed_opens << " failed, " << f.found
		  << " found, " << f.torn << " torn, " << f.wrong << " wrong, " << f.lost
		  << " lost, " << f.risen << " risen, " << f.unknown << " unknown, "
		  << f.accounts << " accounts; " << f.first;
}

class CrashLedger
{
      public:
	// Three sizes, and some keys change theirs.
	static uint64_t payload(uint64_t k, int64_t version)
	{
		static const uint64_t sizes[] = {4000, 20000, 60000};
		const uint64_t change = k % 5 == 0 ? static_cast<uint64_t>(version) / 3 : 0;

		return sizes[(k + change) % 3];
	}
	// Every fourth is of another space, which is cleared now and then.
	static bool is_cleared(uint64_t k)
	{
		return k % 4 == 3;
	}
	static struct kvh_key key(uint64_t k)
	{
		return make_key(k, is_cleared(k) ? 0xC1EA : 0x5ACE);
	}
	static Buffer frame(uint64_t k, int64_t version)
	{
		return make_frame(key(k), payload(k, version), static_cast<uint64_t>(version));
	}

	int64_t next_version()
	{
		return next_version_++;
	}
	void begin(uint64_t k, int64_t version, uint64_t moment)
	{
		changes_[k].push_back({version, moment, DiskLog::kNever});
	}
	void end(uint64_t k, uint64_t moment)
	{
		changes_[k].back().end = moment;
	}
	// A flush, or a close, of what had ended before `begin`, told of at `end`.
	void point(uint64_t begin, uint64_t end)
	{
		points_.push_back({begin, end});
	}
	// What ended since the last point is held by no later one.
	void forsake(uint64_t moment)
	{
		uint64_t since = 0;

		for (const Point &point : points_)
			since = std::max(since, point.begin);
		forsaken_.push_back({since, moment});
	}
	// What a reader is to find while nothing changes.
	int64_t now(uint64_t k) const
	{
		const auto at = changes_.find(k);

		return at == changes_.end() ? kGone : at->second.back().version;
	}

	// Everything in an adapter that was opened on what a cut at `at` left.
	void check(Adapter &l2, uint64_t at, Promise promise, bool evicts, bool verifies,
		   Findings *findings) const
	{
		findings->opens++;
		if (l2.error() != 0) {
			findings->note(&Findings::failed_opens,
				       std::string("open: ") + strerror(-l2.error()));
			return;
		}
		check_accounts(l2, findings);
		for (const auto &[k, changes] : changes_)
			check_key(l2, k, allowed(changes, at, promise, evicts), verifies,
				  findings);
	}

      private:
	struct Point {
		uint64_t begin, end;
	};

	// Versions, kGone among them, that may be found.
	std::set<int64_t> allowed(const std::vector<Change> &changes, uint64_t at,
				  Promise promise, bool evicts) const
	{
		const uint64_t from = held_until(at, promise);
		std::set<int64_t> versions = {kGone};

		for (const Change &change : changes) {
			if (change.begin >= at)
				break;
			if (change.end <= from && !is_forsaken(change))
				versions = {change.version};
			else
				versions.insert({change.version, kGone});
		}
		if (evicts)
			versions.insert(kGone);
		if (versions.count(kGone) != 0)
			add_forsaken(changes, at, &versions);
		return versions;
	}
	// A flush that failed may have lost a wipe, or what was written over a frame
	// that gave way: what a key had by then comes back where nothing newer is.
	void add_forsaken(const std::vector<Change> &changes, uint64_t at,
			  std::set<int64_t> *versions) const
	{
		uint64_t until = 0;

		for (const Point &lost : forsaken_)
			until = std::max(until, lost.end);
		for (const Change &change : changes) {
			if (change.begin < std::min(until, at))
				versions->insert(change.version);
		}
	}
	// What ended by then is not lost any more.
	uint64_t held_until(uint64_t at, Promise promise) const
	{
		uint64_t from = promise == Promise::kEvery ? at - 1 : 0;

		if (promise == Promise::kPoint) {
			for (const Point &point : points_)
				from = point.end <= at ? std::max(from, point.begin) : from;
		}
		return from;
	}
	bool is_forsaken(const Change &change) const
	{
		for (const Point &lost : forsaken_) {
			if (change.end > lost.begin && change.end <= lost.end)
				return true;
		}
		return false;
	}
	void check_accounts(Adapter &l2, Findings *findings) const
	{
		struct {
			const std::map<uint64_t, std::vector<Change>> *changes;
			uint64_t bytes = 0, objects = 0, unknown = 0;
		} sum = {&changes_};

		l2.ops()->list(
			l2.self(),
			[](void *arg, const struct kvh_key *key, uint64_t len) {
				auto *s = static_cast<decltype(sum) *>(arg);
				uint64_t k;

				memcpy(&k, key->hash.bytes + 8, 8);
				s->bytes += len;
				s->objects++;
				s->unknown += s->changes->count(k) == 0;
				return true;
			},
			&sum);
		const struct kvh_l2_usage usage = l2.usage();
		if (sum.unknown > 0)
			findings->note(&Findings::unknown, "a key that was never put");
		if (usage.used_bytes != sum.bytes || usage.objects != sum.objects ||
		    usage.used_bytes > usage.capacity_bytes)
			findings->note(&Findings::accounts,
				       "used " + std::to_string(usage.used_bytes) +
					       ", listed " + std::to_string(sum.bytes));
	}
	static void check_key(Adapter &l2, uint64_t k, const std::set<int64_t> &allowed,
			      bool verifies, Findings *findings)
	{
		int64_t version = kGone;

		if (!read(l2, k, verifies, &version, findings))
			return;
		if (allowed.count(version) != 0)
			return;
		std::string text = "key " + std::to_string(k) + " has version " +
				   std::to_string(version) + ", allowed";
		for (int64_t v : allowed)
			text += " " + std::to_string(v);
		findings->note(version == kGone ? &Findings::lost : &Findings::risen, text);
	}
	// False: served, and wrong.
	static bool read(Adapter &l2, uint64_t k, bool verifies, int64_t *version_p,
			 Findings *findings)
	{
		const struct kvh_key key = CrashLedger::key(k);
		const int64_t len = l2.probe(key);
		const uint8_t digest[32] = {1};
		struct kvh_frame_header header;

		if (len <= 0)
			return true;
		const Buffer into(static_cast<uint64_t>(len));
		if (l2.get(key, into) != 0)
			return true;
		if (verifies &&
		    kvh_frame_verify(into.data(), into.size(), &key, digest, nullptr) != 0) {
			findings->torn++;
			return true;
		}
		memcpy(&header, into.data(), sizeof(header));
		*version_p = static_cast<int64_t>(header.sequence) - 1;
		if (*version_p < 0 || !(into == frame(k, *version_p))) {
			findings->note(&Findings::wrong,
				       "key " + std::to_string(k) + " has bytes nobody put");
			return false;
		}
		findings->found++;
		return true;
	}

	std::map<uint64_t, std::vector<Change>> changes_;
	std::vector<Point> points_, forsaken_;
	int64_t next_version_ = 0;
};

// Puts, replaces, deletes, reads, and where it can be flushes and clears, several at
// a time, as the controller does: one change a key at a time.
class CrashLoad
{
      public:
	// `moment` gives a new one, later than all before.
	CrashLoad(std::function<uint64_t()> moment, CrashLedger &ledger, uint64_t keys,
		  unsigned depth)
	    : moment_(std::move(moment)), ledger_(ledger), keys_(keys), ops_(depth)
	{
	}

	void run(Adapter &l2, unsigned count, std::mt19937_64 &random)
	{
		unsigned begun = 0, running = 0;

		while (begun < count || running > 0) {
			for (Op &op : ops_) {
				if (begun == count || !op.idle)
					continue;
				begun++;
				running += start(l2, op, random);
			}
			if (running == 0)
				continue;
			for (struct kvh_l2_req *req : l2.wait(1)) {
				ended(*static_cast<Op *>(req));
				running--;
			}
		}
	}
	unsigned misread() const
	{
		return misread_;
	}
	unsigned flushed() const
	{
		return flushed_;
	}

      private:
	struct Op : kvh_l2_req {
		Buffer memory{kvh_frame_bytes(60000)};
		std::set<uint64_t> keys; // that it has for itself
		uint64_t began = 0;
		bool idle = true;
	};

	enum kvh_l2_op draw(const Adapter &l2, std::mt19937_64 &random)
	{
		const uint64_t dice = random() % 40;

		if (dice < 24)
			return KVH_L2_PUT;
		if (dice < 30)
			return KVH_L2_DELETE;
		if (dice == 30 && l2.caps().clear)
			return KVH_L2_CLEAR;
		if (dice <= 32 && l2.caps().flush)
			return KVH_L2_FLUSH;
		return KVH_L2_GET;
	}
	// False: another has one of them.
	bool take_keys(Op &op, uint64_t k)
	{
		op.keys.clear();
		if (op.op == KVH_L2_CLEAR) {
			for (uint64_t i = 0; i < keys_; i++) {
				if (CrashLedger::is_cleared(i))
					op.keys.insert(i);
			}
		} else if (op.op != KVH_L2_FLUSH) {
			op.keys = {k};
		}
		for (uint64_t key : op.keys) {
			if (busy_.count(key) != 0)
				return false;
		}
		busy_.insert(op.keys.begin(), op.keys.end());
		return true;
	}
	// 0: the keys are taken.
	unsigned start(Adapter &l2, Op &op, std::mt19937_64 &random)
	{
		const uint64_t k = random() % keys_;
		int64_t version = kGone;
		uint64_t len = 0;

		op.op = draw(l2, random);
		if (!take_keys(op, k))
			return 0;
		if (op.op == KVH_L2_PUT) {
			version = ledger_.next_version();
			const Buffer frame = CrashLedger::frame(k, version);

			len = frame.size();
			memcpy(op.memory.data(), frame.data(), len);
		} else if (op.op == KVH_L2_GET) {
			const int64_t now = ledger_.now(k);

			len = kvh_frame_bytes(CrashLedger::payload(k, now < 0 ? 0 : now));
		}
		struct kvh_key key = CrashLedger::key(k);
		if (op.op == KVH_L2_CLEAR)
			key.space = CrashLedger::key(3).space;
		static_cast<struct kvh_l2_req &>(op) = make_req(
			op.op, key, len > 0 ? op.memory.data() : nullptr, len);
		op.idle = false;
		op.began = moment_();
		for (uint64_t changed : op.keys) {
			if (op.op != KVH_L2_GET)
				ledger_.begin(changed, version, op.began);
		}
		EXPECT_EQ(l2.submit(&op), 0);
		return 1;
	}
	void ended(Op &op)
	{
		if (op.op == KVH_L2_FLUSH) {
			flush_ended(op);
		} else if (op.op == KVH_L2_GET) {
			get_ended(op);
		} else {
			EXPECT_TRUE(op.status == 0 || op.status == -ENOENT)
				<< strerror(-op.status);
			const uint64_t now = moment_();
			for (uint64_t k : op.keys)
				ledger_.end(k, now);
		}
		for (uint64_t k : op.keys)
			busy_.erase(k);
		op.idle = true;
	}
	void get_ended(const Op &op)
	{
		const uint64_t k = *op.keys.begin();
		const int64_t now = ledger_.now(k);

		EXPECT_TRUE(op.status == 0 || op.status == -ENOENT) << strerror(-op.status);
		if (op.status == 0)
			misread_ += now < 0 ||
				    memcmp(op.memory.data(), CrashLedger::frame(k, now).data(),
					   op.len) != 0;
	}
	void flush_ended(const Op &op)
	{
		if (op.status == 0)
			ledger_.point(op.began, moment_());
		else
			ledger_.forsake(moment_());
		flushed_ += op.status == 0;
	}

	std::function<uint64_t()> moment_;
	CrashLedger &ledger_;
	uint64_t keys_;
	std::vector<Op> ops_;
	std::set<uint64_t> busy_;
	unsigned misread_ = 0, flushed_ = 0;
};

} // namespace l2test

#endif
