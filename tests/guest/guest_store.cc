// SPDX-License-Identifier: Apache-2.0
//
// guest_store.cc - the nvme adapter on block devices of a kernel of its own: below
// dm-log-writes, whose log is replayed to each flush and each write with FUA, and
// below dm-flakey, which loses, fails and changes what it is given. run.sh boots the
// guest; anywhere else the tests are skipped.
#include "tests/crash_ledger.h"
#include "tests/guest/dm.h"
#include "tests/long_run.h"

namespace l2test
{
namespace
{

constexpr uint64_t kBytes = 8 << 20, kSectors = kBytes / 512;
constexpr uint64_t kKeys = 60;

class Guest : public ::testing::Test
{
      protected:
	void SetUp() override
	{
		if (getenv("KVHOIST_GUEST") == nullptr)
			GTEST_SKIP() << "not in the guest of tests/guest/run.sh";
		fill("/dev/ram0");
	}
	// Of zeros: what a test before has left would be someone else's.
	static void fill(const char *path)
	{
		const int fd = ::open(path, O_WRONLY | O_CLOEXEC);
		const std::vector<char> zeros(1 << 20);

		ASSERT_GE(fd, 0);
		for (uint64_t off = 0; off < kBytes; off += zeros.size())
			ASSERT_EQ(
				pwrite(fd, zeros.data(), zeros.size(), static_cast<off_t>(off)),
				static_cast<ssize_t>(zeros.size()));
		::close(fd);
	}
	static std::string spec(const std::string &path, const std::string &more = "")
	{
		return "nvme:" + path + ",depth=8,threads=2" + more;
	}
};

// ---- dm-log-writes ----

struct LogSuper {
	uint64_t magic, version, entries;
	uint32_t sector_bytes;
};
struct LogEntry {
	uint64_t sector, sectors, flags, data_bytes;
};
constexpr uint64_t kMagic = 0x6a736677736872;
enum : uint64_t { kFlush = 1, kFua = 2, kDiscard = 4, kMark = 8 };

// Goes through the log, an image behind it.
class Replay
{
      public:
	std::vector<uint8_t> image;
	unsigned long long mark = 0; // the highest that was passed

	explicit Replay(const char *path)
	    : image(kBytes), fd_(::open(path, O_RDONLY | O_CLOEXEC))
	{
		read(&super_, sizeof(super_), 0);
		EXPECT_EQ(super_.magic, kMagic);
		at_ = super_.sector_bytes;
	}
	~Replay()
	{
		::close(fd_);
	}
	Replay(const Replay &) = delete;
	Replay &operator=(const Replay &) = delete;

	// To the next entry that a disk has to hold what came before at; false: none.
	// `loses`: the controls' own, of the writes that are not applied.
	bool next(unsigned loses = 0)
	{
		while (n_ < super_.entries) {
			LogEntry entry;

			read(&entry, sizeof(entry), at_);
			at_ += super_.sector_bytes;
			n_++;
			if (entry.flags & kMark) {
				char text[32] = {}; // behind the entry, in its sector

				read(text, sizeof(text) - 1,
				     at_ - super_.sector_bytes + sizeof(entry));
				mark = std::max(mark, strtoull(text, nullptr, 10));
			} else if (loses == 0 || n_ % loses != 0) {
				apply(entry);
			}
			if (!(entry.flags & (kDiscard | kMark)))
				at_ += entry.sectors * super_.sector_bytes;
			if (entry.flags & (kFlush | kFua))
				return true;
		}
		return false;
	}

      private:
	void read(void *buf, size_t len, uint64_t off) const
	{
		EXPECT_EQ(pread(fd_, buf, len, static_cast<off_t>(off)),
			  static_cast<ssize_t>(len));
	}
	void apply(const LogEntry &entry)
	{
		const uint64_t off = entry.sector * super_.sector_bytes;
		const uint64_t len = entry.sectors * super_.sector_bytes;

		if (len == 0)
			return;
		ASSERT_LE(off + len, image.size());
		if (entry.flags & kDiscard)
			memset(&image[off], 0, len);
		else
			read(&image[off], len, at_);
	}

	int fd_;
	LogSuper super_ = {};
	uint64_t at_ = 0, n_ = 0;
};

class LogWrites : public Guest
{
      protected:
	// Lives, marks what it is told, and dies with all of it in the log.
	void live(uint64_t seed, unsigned count)
	{
		std::mt19937_64 random(seed);
		Dm dm("kvhoist-log");
		uint64_t moment = 0;

		ASSERT_EQ(dm.error(), 0);
		ASSERT_EQ(dm.become(kSectors, "log-writes", "/dev/ram0 /dev/ram1"), 0);
		CrashLoad load(
			[&] {
				EXPECT_EQ(dm.message("mark " + std::to_string(++moment)), 0);
				return moment;
			},
			ledger_, kKeys, 6);
		for (int session = 0; session < 3; session++) {
			Adapter l2(spec(dm.path(), ",sync=write"));

			ASSERT_EQ(l2.error(), 0);
			load.run(l2, count / 3, random);
		}
		EXPECT_EQ(load.misread(), 0u);
		ASSERT_EQ(dm.remove(), 0);
	}
	// Every `step`-th point; `findings` says what was there.
	unsigned replay(unsigned step, unsigned loses, Findings *findings)
	{
		Replay replay("/dev/ram1");
		unsigned points = 0;

		while (replay.next(loses) && findings->clean()) {
			if (points++ % step != 0)
				continue;
			DiskModel disk({{"/disk/l2", replay.image}});
			disk.logs = false;
			Adapter l2(spec("/disk/l2", ",engine=threads"), DiskModel::ops(),
				   &disk);

			ledger_.check(l2, replay.mark + 1, Promise::kEvery, false, true,
				      findings);
		}
		return points;
	}

	CrashLedger ledger_;
};

// C4
TEST_F(LogWrites, EveryFlushHoldsWhatWasPromised)
{
	Findings findings;

	live(draw_seed(), long_or(800, 450));
	ASSERT_FALSE(HasFailure());
	const unsigned points = replay(1, 0, &findings);
	EXPECT_TRUE(findings.clean()) << findings;
	EXPECT_GE(points, 500u);
	EXPECT_GT(findings.found, points);
	VERDICT("C4: %u flushes replayed, %u found, %u torn, %u wrong, %u lost, %u failed "
		"opens",
		points, findings.found, findings.torn, findings.wrong, findings.lost,
		findings.failed_opens);
	Findings control;
	(void)replay(5, 7, &control);
	EXPECT_FALSE(control.clean()) << "control: a log with holes is not seen: " << control;
}

// ---- dm-flakey ----

class Flakey : public Guest
{
      protected:
	void SetUp() override
	{
		Guest::SetUp();
		if (IsSkipped())
			return;
		ASSERT_EQ(dm_.error(), 0);
		is_good();
	}
	void is_good()
	{
		ASSERT_EQ(dm_.become(kSectors, "linear", "/dev/ram0 0"), 0);
	}
	// At once and until told otherwise.
	void is(const std::string &features)
	{
		ASSERT_EQ(dm_.become(kSectors, "flakey", "/dev/ram0 0 0 3600 " + features), 0);
	}
	// Status 0, and believed: then it has to be this version.
	void expect_version_or_miss(Adapter &l2, uint64_t k, int64_t version)
	{
		const Buffer frame = CrashLedger::frame(k, version), into(frame.size());
		const struct kvh_key key = CrashLedger::key(k);
		const uint8_t digest[32] = {1};

		if (l2.get(key, into) != 0 ||
		    kvh_frame_verify(into.data(), into.size(), &key, digest, nullptr) != 0) {
			missed_++;
			return;
		}
		served_++;
		EXPECT_TRUE(into == frame) << "wrong bytes, key " << k;
	}
	int put(Adapter &l2, uint64_t k, int64_t version)
	{
		return l2.put(CrashLedger::key(k), CrashLedger::frame(k, version));
	}

	Dm dm_{"kvhoist-flakey-" +
	       std::string(::testing::UnitTest::GetInstance()->current_test_info()->name())};
	unsigned served_ = 0, missed_ = 0;
};

TEST_F(Flakey, WritesThatFailAreNotFound)
{
	Log log;
	Adapter l2(spec(dm_.path()));

	ASSERT_EQ(l2.error(), 0) << log.text();
	for (uint64_t k = 0; k < 30; k++)
		ASSERT_EQ(put(l2, k, 0), 0);
	is("1 error_writes");
	for (uint64_t k = 30; k < 50; k++) {
		EXPECT_LT(put(l2, k, 0), 0);
		EXPECT_EQ(l2.probe(CrashLedger::key(k)), -ENOENT);
	}
	for (uint64_t k = 0; k < 30; k++)
		expect_version_or_miss(l2, k, 0);
	EXPECT_EQ(served_, 30u) << "reads go on, and nothing gave way";
	is_good();
	unsigned ok = 0;
	for (uint64_t k = 50; k < 60; k++)
		ok += put(l2, k, 0) == 0;
	EXPECT_GT(ok, 0u) << "stores resume";
	ASSERT_EQ(l2.close(), 0);
	Adapter again(spec(dm_.path()));
	ASSERT_EQ(again.error(), 0) << log.text();
	for (uint64_t k = 0; k < 60; k++)
		expect_version_or_miss(again, k, 0);
	VERDICT("dm-flakey error_writes: %u served, %u missed, 0 wrong", served_, missed_);
}

TEST_F(Flakey, WritesThatAreLostAreNotServed)
{
	Log log;
	{
		Adapter l2(spec(dm_.path()));

		ASSERT_EQ(l2.error(), 0) << log.text();
		for (uint64_t k = 0; k < 20; k++)
			ASSERT_EQ(put(l2, k, 0), 0);
		is("1 drop_writes");
		for (uint64_t k = 20; k < 40; k++)
			EXPECT_EQ(put(l2, k, 0), 0) << "control: it does not lose them";
		for (uint64_t k = 0; k < 40; k++)
			expect_version_or_miss(l2, k, 0);
		EXPECT_EQ(missed_, 20u) << "those that were lost";
		is_good();
	}
	Adapter again(spec(dm_.path()));
	ASSERT_EQ(again.error(), 0) << log.text();
	for (uint64_t k = 0; k < 40; k++)
		expect_version_or_miss(again, k, 0);
	VERDICT("dm-flakey drop_writes: %u served, %u missed, 0 wrong", served_, missed_);
}

TEST_F(Flakey, BytesThatAreChangedAreNotServed)
{
	Log log;
	Adapter l2(spec(dm_.path()));

	ASSERT_EQ(l2.error(), 0) << log.text();
	for (uint64_t k = 0; k < 30; k++)
		ASSERT_EQ(put(l2, k, 0), 0);
	is("5 corrupt_bio_byte 1000 r 17 0");
	for (uint64_t k = 0; k < 30; k++)
		expect_version_or_miss(l2, k, 0);
	EXPECT_EQ(served_, 0u) << "each read was changed";
	is_good();
	for (uint64_t k = 0; k < 30; k++)
		expect_version_or_miss(l2, k, 0);
	EXPECT_EQ(served_, 30u) << "control: served when nothing is changed";
	VERDICT("dm-flakey corrupt_bio_byte: %u missed, 0 wrong", missed_);
}

} // namespace
} // namespace l2test
