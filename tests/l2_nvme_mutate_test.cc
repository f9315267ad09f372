// SPDX-License-Identifier: Apache-2.0
//
// l2_nvme_mutate_test.cc - what the nvme adapter makes of bytes that are not as it
// left them: flipped bits, swapped and torn frames, and files of which anything may
// have been changed, cut or replaced. It knows of the format only that frames begin
// at a page with their header. `make crash` has the long form.
#include "tests/crash_ledger.h"
#include "tests/long_run.h"

namespace l2test
{
namespace
{

const char *const kFile = "/disk/l2";
const uint8_t kDigest[32] = {1};

struct Place {
	uint64_t k, off, len;
};

// A store with frames of all three sizes, closed in order and as a kill leaves it.
class Mutate : public ::testing::TestWithParam<const char *>
{
      protected:
	void SetUp() override
	{
		if (std::string(GetParam()) == "uring" && !uring_works())
			GTEST_SKIP() << "io_uring is refused here";
		DiskModel disk;
		disk.logs = false;
		Adapter l2(spec(",size=2M"), DiskModel::ops(), &disk);

		ASSERT_EQ(l2.error(), 0);
		for (uint64_t k = 0; k < kKeys; k++)
			put(l2, k);
		for (uint64_t k = 0; k < kKeys; k += 4)
			put(l2, k);
		killed_ = disk.image();
		ASSERT_EQ(l2.close(), 0);
		closed_ = disk.image();
		for (uint64_t k = 0; k < kKeys; k++)
			find(k);
		ASSERT_EQ(places_.size(), kKeys);
	}
	std::string spec(const std::string &more = "") const
	{
		return std::string("nvme:") + kFile +
		       ",threads=1,depth=4,engine=" + GetParam() + more;
	}
	void put(Adapter &l2, uint64_t k)
	{
		const int64_t version = ledger_.next_version();

		ledger_.begin(k, version, 1);
		ASSERT_EQ(l2.put(CrashLedger::key(k), CrashLedger::frame(k, version)), 0);
		ledger_.end(k, 2);
	}
	void find(uint64_t k)
	{
		const std::vector<uint8_t> &bytes = closed_[kFile];
		const Buffer frame = CrashLedger::frame(k, ledger_.now(k));

		for (uint64_t off = 0; off + frame.size() <= bytes.size(); off += 4096) {
			if (memcmp(&bytes[off], frame.data(), frame.size()) == 0)
				places_.push_back({k, off, frame.size()});
		}
	}
	// Is it served: read, and believed?
	static bool serves(Adapter &l2, uint64_t k, const Buffer &into)
	{
		const struct kvh_key key = CrashLedger::key(k);

		return l2.get(key, into) == 0 &&
		       kvh_frame_verify(into.data(), into.size(), &key, kDigest, nullptr) == 0;
	}
	static bool is_sound(const Buffer &frame, uint64_t k)
	{
		const struct kvh_key key = CrashLedger::key(k);

		return kvh_frame_verify(frame.data(), frame.size(), &key, kDigest, nullptr) ==
		       0;
	}
	const Place &any(std::mt19937_64 &random) const
	{
		return places_[random() % places_.size()];
	}

	static constexpr uint64_t kKeys = 24;
	CrashLedger ledger_;
	Image killed_, closed_;
	std::vector<Place> places_;
};

// S4, of frames: each flip is found, and what was flipped back is served again.
TEST_P(Mutate, EveryFlippedBitOfAFrameIsFound)
{
	std::mt19937_64 random(draw_seed());
	DiskModel disk(closed_);
	disk.logs = false;
	Adapter l2(spec(), DiskModel::ops(), &disk);
	ASSERT_EQ(l2.error(), 0);
	const unsigned flips = long_or(500000, 6000);
	unsigned found = 0;

	for (unsigned i = 0; i < flips; i++) {
		const Place &place = any(random);
		const Buffer into(place.len);
		// Half of them in headers, which are a small part.
		const uint64_t off = place.off + random() % (i % 2 ? place.len : 4096);
		const uint8_t was = closed_[kFile][off];
		const uint8_t flipped = static_cast<uint8_t>(was ^ (1u << random() % 8));

		disk.poke(kFile, off, &flipped, 1);
		found += !serves(l2, place.k, into);
		disk.poke(kFile, off, &was, 1);
		if (i % 1000 == 0) {
			ASSERT_TRUE(serves(l2, place.k, into)) << "control: nothing is served";
		}
	}
	EXPECT_EQ(found, flips);
	VERDICT("S4 %s: %u of %u flips found", GetParam(), found, flips);
}

// Without the verification above it, a flip of a payload would be served.
TEST_P(Mutate, ControlWithoutVerificationAFlipIsServed)
{
	DiskModel disk(closed_);
	Adapter l2(spec(), DiskModel::ops(), &disk);
	const Place &place = places_[0];
	const Buffer into(place.len);
	const uint8_t flipped = static_cast<uint8_t>(closed_[kFile][place.off + 5000] ^ 1);

	ASSERT_EQ(l2.error(), 0);
	disk.poke(kFile, place.off + 5000, &flipped, 1);
	EXPECT_EQ(l2.get(CrashLedger::key(place.k), into), 0);
	EXPECT_FALSE(into == CrashLedger::frame(place.k, ledger_.now(place.k)));
}

// S5: another frame, sound in itself, lies where this one should.
TEST_P(Mutate, SwappedFramesAreNotServed)
{
	std::mt19937_64 random(draw_seed());
	DiskModel disk(closed_);
	disk.logs = false;
	Adapter l2(spec(), DiskModel::ops(), &disk);
	ASSERT_EQ(l2.error(), 0);
	const unsigned swaps = long_or(10000, 1000);
	unsigned done = 0, served = 0, sound = 0;

	while (done < swaps) {
		const Place &a = any(random), &b = any(random);

		if (a.k == b.k || a.len != b.len)
			continue;
		const Buffer into(a.len);
		const std::vector<uint8_t> &bytes = closed_[kFile];

		disk.poke(kFile, a.off, &bytes[b.off], a.len);
		disk.poke(kFile, b.off, &bytes[a.off], a.len);
		served += serves(l2, a.k, into);
		sound += is_sound(into, b.k);
		served += serves(l2, b.k, into);
		disk.poke(kFile, a.off, &bytes[a.off], a.len);
		disk.poke(kFile, b.off, &bytes[b.off], a.len);
		done++;
	}
	EXPECT_EQ(served, 0u);
	EXPECT_EQ(sound, done) << "control: what was read is not whole, and of the other key";
	VERDICT("S5 %s: %u swaps, %u served", GetParam(), done, served);
}

// S6: only the first, or only the last sectors of a frame were written; the rest
// is zeros, or what another frame left there.
TEST_P(Mutate, TornFramesAreFound)
{
	DiskModel disk(closed_);
	disk.logs = false;
	Adapter l2(spec(), DiskModel::ops(), &disk);
	ASSERT_EQ(l2.error(), 0);
	const std::vector<uint8_t> &bytes = closed_[kFile];
	unsigned torn = 0, found = 0, unseen = 0;

	for (const Place &place : places_) {
		const Buffer into(place.len);
		std::vector<uint8_t> other(place.len);

		if (place.k % 2 != 0) {
			const Buffer frame = CrashLedger::frame(place.k, 1000 + 15);

			memcpy(other.data(), frame.data(), std::min(frame.size(), place.len));
		}
		// Behind the payload is padding: with all of it torn off, the frame is whole.
		const uint64_t end = 4096 + CrashLedger::payload(place.k, ledger_.now(place.k));

		for (uint64_t at = 512; at < end; at += is_long() ? 512 : 4608) {
			for (int tail = 0; tail < 2; tail++) {
				const uint64_t off = tail ? at : 0;
				const uint64_t len = tail ? place.len - at : at;

				// The same bytes are no tear.
				if (memcmp(&bytes[place.off + off], &other[off], len) == 0)
					continue;
				disk.poke(kFile, place.off + off, &other[off], len);
				torn++;
				found += !serves(l2, place.k, into);
				unseen += l2.get(CrashLedger::key(place.k), into) == 0;
				disk.poke(kFile, place.off + off, &bytes[place.off + off], len);
			}
		}
	}
	EXPECT_EQ(found, torn);
	EXPECT_GT(unseen, 0u) << "control: none would be served without verification";
	VERDICT("S6 %s: %u of %u torn frames found", GetParam(), found, torn);
}

// ---- files of which anything was changed ----

class Mutator
{
      public:
	explicit Mutator(std::mt19937_64 &random) : random_(random)
	{
	}
	// One to three changes, mostly where there are no frames.
	void change(std::vector<uint8_t> *bytes)
	{
		for (uint64_t n = 1 + random_() % 3; n > 0 && !bytes->empty(); n--)
			change_once(bytes);
	}

      private:
	uint64_t any_offset(const std::vector<uint8_t> &bytes)
	{
		const uint64_t size = bytes.size();
		const uint64_t where = random_() % 8;

		if (where < 5)
			return random_() % std::min<uint64_t>(size, 64 << 10);
		return where < 7 ? size - 1 - random_() % std::min<uint64_t>(size, 64 << 10)
				 : random_() % size;
	}
	void change_once(std::vector<uint8_t> *bytes)
	{
		const uint64_t off = any_offset(*bytes), left = bytes->size() - off;
		const uint64_t len = 1 + random_() % std::min<uint64_t>(left, 8192);
		const uint64_t page = off / 4096 * 4096;

		switch (random_() % 9) {
		case 0: (*bytes)[off] ^= static_cast<uint8_t>(1u << random_() % 8); break;
		case 1: memset(&(*bytes)[off], 0, len); break;
		case 2: memset(&(*bytes)[off], 0xff, len); break;
		case 3:
			for (uint64_t i = 0; i < len; i++)
				(*bytes)[off + i] = static_cast<uint8_t>(random_());
			break;
		case 4: // a page of another place: sound, and wrong here
			if (page + 4096 <= bytes->size())
				memmove(&(*bytes)[page],
					&(*bytes)[random_() % (bytes->size() / 4096) * 4096],
					4096);
			break;
		case 5: bytes->resize(off); break;
		case 6: bytes->resize(bytes->size() + len); break;
		case 7: small_number(bytes, off); break;
		case 8: foreign(bytes); break;
		}
	}
	// As a field of its own: 0, 1, a little, the most.
	void small_number(std::vector<uint8_t> *bytes, uint64_t off)
	{
		const uint64_t values[] = {0,          1,         2,          255,
					   UINT32_MAX, INT64_MAX, UINT64_MAX, bytes->size()};
		const uint64_t value = values[random_() % 8];

		off = off / 4 * 4;
		memcpy(&(*bytes)[off], &value,
		       std::min<uint64_t>(random_() % 2 ? 4 : 8, bytes->size() - off));
	}
	void foreign(std::vector<uint8_t> *bytes)
	{
		static const struct {
			uint64_t off;
			const char *magic;
			size_t len;
		} signatures[] = {{0,
				   "\x7f"
				   "ELF",
				   4},
				  {0, "LABELONE", 8},
				  {0, "XFSB", 4},
				  {1080, "\x53\xef", 2},
				  {512, "EFI PART", 8},
				  {0, "#!/bin/sh\n", 10}};
		const auto &s = signatures[random_() % 6];

		memset(bytes->data(), 0, std::min<uint64_t>(bytes->size(), 8192));
		if (bytes->size() >= s.off + s.len)
			memcpy(bytes->data() + s.off, s.magic, s.len);
	}

	std::mt19937_64 &random_;
};

// C8
TEST_P(Mutate, AChangedFileIsRefusedOrServesNothingWrong)
{
	std::mt19937_64 random(draw_seed());
	Mutator mutator(random);
	Findings findings;
	std::map<int, unsigned> refused;
	unsigned opened = 0;

	for (unsigned i = 0; i < long_or(5000, 250); i++) {
		Image image = random() % 2 ? closed_ : killed_;

		mutator.change(&image[kFile]);
		DiskModel disk(image);
		disk.logs = false;
		Log log;
		Adapter l2(spec(random() % 2 ? ",size=2M" : ""), DiskModel::ops(), &disk);

		if (l2.error() == 0) {
			opened++;
			ledger_.check(l2, 1000, Promise::kNever, true, true, &findings);
			ASSERT_TRUE(findings.clean()) << i << ": " << findings;
			continue;
		}
		refused[l2.error()]++;
		EXPECT_GE(log.count("\n"), 1u) << "no reason given";
		EXPECT_TRUE(disk.image() == image) << "was refused, and written to";
		EXPECT_EQ(disk.open_fds(), 0u);
		ASSERT_FALSE(HasFailure()) << i << ": " << strerror(-l2.error()) << "\n"
					   << log.text();
	}
	for (const auto &[error, n] : refused) {
		EXPECT_TRUE(error == -EBADMSG || error == -EEXIST || error == -ENOENT ||
			    error == -EPROTONOSUPPORT || error == -EINVAL)
			<< strerror(-error);
		VERDICT("C8 %s: %u refused: %s", GetParam(), n, strerror(-error));
	}
	VERDICT("C8 %s: %u opened, %u frames found, %u torn, %u wrong", GetParam(), opened,
		findings.found, findings.torn, findings.wrong);
	EXPECT_GT(opened, 0u);
	EXPECT_GT(refused.size(), 1u);
	EXPECT_GT(findings.found, 0u);
}

// Asked for, it is formatted over; what is foreign is never so unasked.
TEST_P(Mutate, FormatOverIsForThoseWhoAsk)
{
	Image image = closed_;
	Log log;

	memset(image[kFile].data(), 'x', 65536);
	{
		DiskModel disk(image);

		EXPECT_LT(Adapter(spec(), DiskModel::ops(), &disk).error(), 0);
		EXPECT_TRUE(disk.image() == image);
	}
	DiskModel disk(image);
	Adapter l2(spec(",size=2M,format=yes"), DiskModel::ops(), &disk);
	ASSERT_EQ(l2.error(), 0) << log.text();
	EXPECT_EQ(l2.usage().objects, 0u);
}

INSTANTIATE_TEST_SUITE_P(Engines, Mutate, ::testing::Values("uring", "threads"),
			 [](const auto &info) { return std::string(info.param); });

} // namespace
} // namespace l2test
