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
	static Buffer frame(uint64_t k, int64_t version)
	{
		return make_frame(make_key(k), payload(k, version),
				  static_cast<uint64_t>(version));
	}

	int64_t next_version()
	{
		return next_version_++;
	}
	void begin(uint64_t k, int64_t version, uint64_t moment)
	{
		changes_[k].push_back({version, moment, DiskModel::kNever});
	}
	void end(uint64_t k, uint64_t moment)
	{
		changes_[k].back().end = moment;
	}
	void point(uint64_t moment)
	{
		points_.push_back(moment);
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
	// Versions, kGone among them, that may be found.
	std::set<int64_t> allowed(const std::vector<Change> &changes, uint64_t at,
				  Promise promise, bool evicts) const
	{
		const uint64_t from = held_until(at, promise);
		std::set<int64_t> versions = {kGone};

		for (const Change &change : changes) {
			if (change.begin >= at)
				break;
			if (change.end <= from)
				versions = {change.version};
			else
				versions.insert({change.version, kGone});
		}
		if (!evicts)
			return versions;
		// What was evicted comes back where its slot's next write was lost.
		versions.insert(kGone);
		for (const Change &change : changes) {
			if (change.begin < at)
				versions.insert(change.version);
		}
		return versions;
	}
	// What ended by then is not lost any more.
	uint64_t held_until(uint64_t at, Promise promise) const
	{
		uint64_t from = promise == Promise::kEvery ? at : 0;

		if (promise == Promise::kPoint) {
			for (uint64_t point : points_)
				from = point <= at ? std::max(from, point) : from;
		}
		return from;
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
		const struct kvh_key key = make_key(k);
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
	std::vector<uint64_t> points_;
	int64_t next_version_ = 0;
};

// Puts, replaces, deletes and reads, several at a time, as the controller does: one
// change a key at a time.
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

      private:
	struct Op : kvh_l2_req {
		Buffer memory{kvh_frame_bytes(60000)};
		uint64_t k = 0;
		bool idle = true;
	};

	// 0: the key is taken.
	unsigned start(Adapter &l2, Op &op, std::mt19937_64 &random)
	{
		const uint64_t k = random() % keys_, dice = random() % 10;
		const enum kvh_l2_op kind = dice < 6   ? KVH_L2_PUT
					    : dice < 8 ? KVH_L2_DELETE
						       : KVH_L2_GET;
		const int64_t version = kind == KVH_L2_PUT ? ledger_.next_version() : kGone;
		uint64_t len = 0;

		if (!busy_.insert(k).second)
			return 0;
		if (kind == KVH_L2_PUT) {
			const Buffer frame = CrashLedger::frame(k, version);

			len = frame.size();
			memcpy(op.memory.data(), frame.data(), len);
		} else if (kind == KVH_L2_GET) {
			const int64_t now = ledger_.now(k);

			len = kvh_frame_bytes(CrashLedger::payload(k, now < 0 ? 0 : now));
		}
		static_cast<struct kvh_l2_req &>(op) = make_req(kind, make_key(k),
								op.memory.data(), len);
		op.k = k;
		op.idle = false;
		if (kind != KVH_L2_GET)
			ledger_.begin(k, version, moment_());
		EXPECT_EQ(l2.submit(&op), 0);
		return 1;
	}
	void ended(Op &op)
	{
		EXPECT_TRUE(op.status == 0 || op.status == -ENOENT) << strerror(-op.status);
		if (op.op != KVH_L2_GET) {
			ledger_.end(op.k, moment_());
		} else if (op.status == 0) {
			const int64_t now = ledger_.now(op.k);

			misread_ += now < 0 ||
				    memcmp(op.memory.data(),
					   CrashLedger::frame(op.k, now).data(), op.len) != 0;
		}
		busy_.erase(op.k);
		op.idle = true;
	}

	std::function<uint64_t()> moment_;
	CrashLedger &ledger_;
	uint64_t keys_;
	std::vector<Op> ops_;
	std::set<uint64_t> busy_;
	unsigned misread_ = 0;
};

} // namespace l2test

#endif
