// SPDX-License-Identifier: Apache-2.0
//
// frame_test.cc - a frame is served only as it was sealed: damage anywhere,
// another's payload, another's header and newer formats are all told apart.
#include "host/frame.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <isa-l/crc64.h>
#include <memory>
#include <random>
#include <string>

namespace
{

struct Free {
	void operator()(void *p) const
	{
		free(p);
	}
};

class Frame
{
      public:
	Frame(uint64_t payload, uint8_t key_byte = 1, uint64_t sequence = 7, uint32_t seed = 42)
	    : bytes(kvh_frame_bytes(payload)), payload(payload),
	      memory(static_cast<uint8_t *>(aligned_alloc(KVH_FRAME_ALIGN, bytes)))
	{
		std::mt19937 random(seed);

		memset(memory.get(), 0xEE, bytes); // what a reused frame is full of
		memset(&key, 0, sizeof(key));
		memset(key.hash.bytes, key_byte, sizeof(key.hash.bytes));
		key.space = 0x5ACE;
		key.rank = 3;
		key.group = 1;
		memset(digest, 0xD1, sizeof(digest));
		memset(parent.bytes, 9, sizeof(parent.bytes));
		kvh_frame_fill(memory.get(), &key, digest, &parent, sequence, payload);
		for (uint64_t i = 0; i < payload; i++)
			memory[KVH_FRAME_ALIGN + i] = static_cast<uint8_t>(random());
		kvh_frame_seal(memory.get());
	}

	kvh_frame_header *header()
	{
		return reinterpret_cast<kvh_frame_header *>(memory.get());
	}

	// Makes a changed header sound again, as a forger or another program would.
	void reseal_header()
	{
		header()->header_checksum = crc64_ecma_refl(0, memory.get(), 4088);
	}

	std::string fault(uint64_t size)
	{
		const char *what = "";
		int rc = kvh_frame_verify(memory.get(), size, &key, digest, &what);

		EXPECT_EQ(rc, *what == '\0' ? 0 : -EBADMSG);
		return what;
	}

	std::string fault()
	{
		return fault(bytes);
	}

	const uint64_t bytes, payload;
	std::unique_ptr<uint8_t[], Free> memory;
	kvh_key key;
	uint8_t digest[32];
	kvh_hash parent;
};

class FrameSizes : public ::testing::TestWithParam<uint64_t>
{
};

TEST_P(FrameSizes, FillWritesEveryFieldAndZeroesThePadding)
{
	Frame f(GetParam());
	kvh_frame_header *h = f.header();

	EXPECT_EQ(memcmp(h->magic, "KVHOIST\0", 8), 0);
	EXPECT_EQ(h->version, KVH_FRAME_VERSION);
	EXPECT_EQ(h->checksum_algo, uint32_t(KVH_CHECKSUM_CRC64_ECMA));
	EXPECT_EQ(memcmp(&h->key, &f.key, sizeof(f.key)), 0);
	EXPECT_EQ(memcmp(h->digest, f.digest, sizeof(f.digest)), 0);
	EXPECT_EQ(memcmp(&h->parent, &f.parent, sizeof(f.parent)), 0);
	EXPECT_EQ(h->sequence, 7u);
	EXPECT_EQ(h->payload_bytes, f.payload);
	EXPECT_EQ(h->frame_bytes, f.bytes);
	EXPECT_EQ(h->reserved, 0u);
	for (uint8_t byte : h->zero)
		ASSERT_EQ(byte, 0);
	for (uint64_t i = KVH_FRAME_ALIGN + f.payload; i < f.bytes; i++)
		ASSERT_EQ(f.memory[i], 0) << "padding at " << i;
	EXPECT_EQ(f.fault(), "");
	EXPECT_EQ(kvh_frame_check_header(h), 0);
}

TEST_P(FrameSizes, BitFlipInEveryHeaderByteIsDetected)
{
	Frame f(GetParam());

	for (unsigned bit = 0; bit < 8 * KVH_FRAME_ALIGN; bit++) {
		f.memory[bit / 8] ^= uint8_t(1u << bit % 8);
		ASSERT_NE(f.fault(), "") << "bit " << bit;
		ASSERT_EQ(kvh_frame_check_header(f.memory.get()), -EBADMSG) << "bit " << bit;
		f.memory[bit / 8] ^= uint8_t(1u << bit % 8);
	}
	EXPECT_EQ(f.fault(), "");
}

TEST_P(FrameSizes, BitFlipInEveryPayloadAndPaddingByteIsDetected)
{
	Frame f(GetParam());

	for (uint64_t i = KVH_FRAME_ALIGN; i < f.bytes; i++) {
		f.memory[i] ^= uint8_t(1u << i % 8);
		ASSERT_EQ(f.fault(), "payload checksum") << "byte " << i;
		f.memory[i] ^= uint8_t(1u << i % 8);
	}
	EXPECT_EQ(f.fault(), "");
}

TEST_P(FrameSizes, WrongSizeIsDetected)
{
	Frame f(GetParam());

	for (uint64_t size = 0; size < f.bytes; size += KVH_FRAME_ALIGN / 2)
		EXPECT_EQ(f.fault(size), "size") << size;
}

INSTANTIATE_TEST_SUITE_P(Payload, FrameSizes,
			 ::testing::Values(0, 1, 4095, 4096, 4097, 3 * 4096 + 17));

TEST(Frame, TornTailIsDetected)
{
	for (uint64_t kept = 1; kept < 8; kept++) {
		Frame f(7 * 4096);

		memset(f.memory.get() + kept * 4096, 0, f.bytes - kept * 4096);
		EXPECT_EQ(f.fault(), "payload checksum") << kept << " pages kept";
	}
}

TEST(Frame, LargePayloadSampledFlipsAreDetected)
{
	Frame f(1 << 20);
	std::mt19937 random(1234);

	for (int i = 0; i < 2000; i++) {
		uint64_t bit = random() % (8 * f.bytes);

		f.memory[bit / 8] ^= uint8_t(1u << bit % 8);
		ASSERT_NE(f.fault(), "") << "bit " << bit;
		f.memory[bit / 8] ^= uint8_t(1u << bit % 8);
	}
	EXPECT_EQ(f.fault(), "");
}

TEST(Frame, AnotherKeyOfTheSameSizeIsDetected)
{
	Frame a(5000, 1), b(5000, 2);
	const char *what = "";

	EXPECT_EQ(kvh_frame_verify(b.memory.get(), b.bytes, &a.key, a.digest, &what), -EBADMSG);
	EXPECT_STREQ(what, "key");
	for (unsigned i = 0; i < sizeof(kvh_key); i++) { // rank, group and space too
		kvh_key other = a.key;

		reinterpret_cast<uint8_t *>(&other)[i] ^= 1;
		EXPECT_EQ(kvh_frame_verify(a.memory.get(), a.bytes, &other, a.digest, nullptr),
			  -EBADMSG);
	}
}

TEST(Frame, AnotherDigestOfTheSameSpaceIdIsDetected)
{
	Frame f(5000);

	for (unsigned i = 0; i < sizeof(f.digest); i++) {
		f.digest[i] ^= 0x80;
		ASSERT_EQ(f.fault(), "space digest") << i;
		f.digest[i] ^= 0x80;
	}
}

// The payload of one frame under the sound header of another: a misdirected or
// half-finished write. Only the binding of the header to the payload shows it
// where even the payloads are equal.
TEST(Frame, PayloadOfAnotherKeyOrSequenceIsDetected)
{
	Frame a(5000, 1, 7), other_key(5000, 2, 7), other_sequence(5000, 1, 8);

	for (Frame *b : {&other_key, &other_sequence}) {
		ASSERT_EQ(memcmp(a.memory.get() + 4096, b->memory.get() + 4096, a.bytes - 4096),
			  0);
		ASSERT_NE(a.header()->checksum, b->header()->checksum);
		a.header()->checksum = b->header()->checksum; // as if it came with the payload
		a.reseal_header();
		EXPECT_EQ(a.fault(), "payload checksum");
	}
}

TEST(Frame, StalePayloadUnderANewHeaderIsDetected)
{
	Frame now(5000, 1, 8, 43), before(5000, 1, 7, 42);

	memcpy(now.memory.get() + 4096, before.memory.get() + 4096, now.bytes - 4096);
	EXPECT_EQ(now.fault(), "payload checksum");
}

TEST(Frame, SwappedDigestInASoundHeaderIsDetected)
{
	Frame f(5000);

	f.header()->digest[0] ^= 1;
	f.digest[0] ^= 1;
	f.reseal_header();
	EXPECT_EQ(f.fault(), "payload checksum");
}

TEST(Frame, NewerVersionIsNotSupportedAndOlderIsUnsound)
{
	Frame f(100);

	f.header()->version = KVH_FRAME_VERSION + 1;
	EXPECT_EQ(kvh_frame_check_header(f.memory.get()), -EBADMSG); // damage, not a version
	f.reseal_header();
	EXPECT_EQ(kvh_frame_check_header(f.memory.get()), -EPROTONOSUPPORT);
	EXPECT_EQ(f.fault(), "version");
	f.header()->version = 0;
	f.reseal_header();
	EXPECT_EQ(kvh_frame_check_header(f.memory.get()), -EBADMSG);
}

TEST(Frame, ForeignBytesAreUnsound)
{
	uint8_t zeros[4096] = {}, ones[4096];

	memset(ones, 0xFF, sizeof(ones));
	EXPECT_EQ(kvh_frame_check_header(zeros), -EBADMSG);
	EXPECT_EQ(kvh_frame_check_header(ones), -EBADMSG);
}

TEST(Frame, LengthsThatContradictAreUnsound)
{
	for (uint64_t payload : {UINT64_C(5001) + 4096, UINT64_MAX, UINT64_MAX - 4095}) {
		Frame f(5000);

		f.header()->payload_bytes = payload;
		f.reseal_header();
		EXPECT_EQ(kvh_frame_check_header(f.memory.get()), -EBADMSG) << payload;
		f.header()->frame_bytes = kvh_frame_bytes(payload); // wraps for the large ones
		f.reseal_header();
		EXPECT_NE(f.fault(), "") << payload;
	}
}

TEST(Frame, UncheckedPayloadIsRefused)
{
	for (uint32_t algo : {uint32_t(KVH_CHECKSUM_NONE), 2u}) {
		Frame f(5000);

		f.header()->checksum_algo = algo;
		f.reseal_header();
		EXPECT_EQ(kvh_frame_check_header(f.memory.get()), 0);
		EXPECT_EQ(f.fault(), "checksum algorithm");
	}
}

} // namespace
