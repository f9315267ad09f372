/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_gpu_test.cc - gather and scatter of a device against the plain-C twin.
 * A mirror in host memory holds pools, pages, plan and stages among random
 * bytes, the device has a copy of it; the twin works on one, the device on the
 * other, and then every byte of both must be the same. On the host device, too,
 * which shows that the test itself is right where there is no GPU.
 */
#include "cuda/device.h"
#include "tests/device_or_skip.h"
#include "tests/pack_check.h"

using namespace layouts;

namespace
{

constexpr uint64_t kMirror = UINT64_C(64) << 20;

class PackOnDevice : public testing::TestWithParam<const char *>
{
      protected:
	void SetUp() override
	{
		DEVICE_OR_SKIP(GetParam(), &dev_);
		ASSERT_EQ(dev_->ops->stream_create(dev_, 1, &stream_), 0);
		ASSERT_EQ(dev_->ops->mem_alloc(dev_, kMirror + 256, &device_block_), 0);
		ASSERT_EQ(dev_->ops->host_alloc(dev_, kMirror + 256, &mirror_block_), 0);
		ASSERT_EQ(dev_->ops->host_alloc(dev_, kMirror, &back_), 0);
		device_ = aligned(device_block_);
		mirror_ = aligned(mirror_block_);
	}
	void TearDown() override
	{
		if (dev_ == nullptr)
			return;
		if (device_block_ != nullptr)
			dev_->ops->mem_free(dev_, device_block_);
		if (mirror_block_ != nullptr)
			dev_->ops->host_free(dev_, mirror_block_);
		if (back_ != nullptr)
			dev_->ops->host_free(dev_, back_);
		if (stream_ != nullptr)
			dev_->ops->stream_destroy(dev_, stream_);
		dev_->ops->close(dev_);
	}
	static unsigned char *aligned(void *block)
	{
		return reinterpret_cast<unsigned char *>(
			(reinterpret_cast<uintptr_t>(block) + 255) & ~uintptr_t{255});
	}

	/* A place in mirror and device, `shift` bytes off 64, after a gap. */
	uint64_t place(uint64_t bytes, uint64_t shift)
	{
		const uint64_t at = ((used_ + 64 + 63) & ~uint64_t{63}) + shift;

		used_ = at + bytes;
		EXPECT_LE(used_ + 64, kMirror);
		return at;
	}
	void upload()
	{
		const kvh_copy copy = {device_, mirror_, used_ + 64};

		ASSERT_EQ(dev_->ops->copy(dev_, KVH_COPY_H2D, &copy, stream_), 0);
	}
	void compare()
	{
		const kvh_copy copy = {back_, device_, used_ + 64};

		ASSERT_EQ(dev_->ops->copy(dev_, KVH_COPY_D2H, &copy, stream_), 0);
		ASSERT_EQ(dev_->ops->stream_wait(dev_, stream_), 0);
		const auto *got = static_cast<const unsigned char *>(back_);
		const auto *end = mirror_ + used_ + 64;
		const auto diff = std::mismatch(mirror_, const_cast<unsigned char *>(end), got);

		ASSERT_EQ(diff.first, end)
			<< "byte " << diff.first - mirror_ << " of " << used_;
	}

	/* Plans of one group for both sides; the device's own lies in the copy. */
	void make_plans(const Layout &layout, const Group &g, uint64_t shift)
	{
		std::vector<kvh_alloc> here, there;

		for (uint64_t bytes : layout.allocs) {
			const uint64_t at = place(bytes, shift);

			here.push_back({mirror_ + at, bytes});
			there.push_back({device_ + at, bytes});
		}
		plan_ = plan_make(layout, g, here);
		device_plan_ = plan_make(layout, g, there);
		ASSERT_NE(plan_, nullptr);
		ASSERT_NE(device_plan_, nullptr);
		ASSERT_EQ(plan_->width, device_plan_->width);
		plan_at_ = place(plan_->bytes, 0);
	}
	void run(const Job &job, Rng &rng, bool gather)
	{
		std::vector<std::pair<kvh_pack, uint64_t>> packs; /* and where its stage is */
		const uint64_t pages_at = place(job.pages.size() * sizeof(uint32_t), 0);

		memcpy(mirror_ + pages_at, job.pages.data(),
		       job.pages.size() * sizeof(uint32_t));
		each_cut(plan_.get(), job, rng, 0,
			 [&](const kvh_pack &pack, Stage &, uint64_t from, uint64_t to) {
				 packs.emplace_back(pack, place(to - from, below(rng, 4) * 16));
			 });
		upload();
		for (auto &p : packs) {
			kvh_pack here = p.first, there = p.first;

			here.stage = mirror_ + p.second;
			there.stage = device_ + p.second;
			there.plan = reinterpret_cast<const kvh_plan *>(device_ + plan_at_);
			there.pages = reinterpret_cast<const uint32_t *>(device_ + pages_at);
			/* The twin's side is not touched before it was copied. */
			ASSERT_EQ(dev_->ops->stream_wait(dev_, stream_), 0);
			ASSERT_EQ(gather ? kvh_gather_ref(&here) : kvh_scatter_ref(&here), 0);
			ASSERT_EQ(gather ? dev_->ops->gather(dev_, &there, stream_)
					 : dev_->ops->scatter(dev_, &there, stream_),
				  0);
		}
		compare();
	}
	void check(const Layout &layout, uint64_t shift, uint64_t seed)
	{
		Rng rng(seed);

		for (const Group &g : layout.groups) {
			for (bool gather : {true, false}) {
				SCOPED_TRACE(layout.name + (gather ? " gather" : " scatter") +
					     " shift " + std::to_string(shift) + " seed " +
					     std::to_string(seed));
				used_ = 0;
				make_plans(layout, g, shift);
				fill(rng);
				memcpy(mirror_ + plan_at_, device_plan_.get(), plan_->bytes);
				run(job_make(layout, g, rng), rng, gather);
				if (HasFatalFailure())
					return;
			}
		}
	}
	/* More than is used so far: stages come later. */
	void fill(Rng &rng)
	{
		const uint64_t end = std::min(kMirror, 4 * used_ + 65536);

		for (uint64_t i = 0; i + 8 <= end; i += 8) {
			const uint64_t r = rng();

			memcpy(mirror_ + i, &r, 8);
		}
	}
	void check_all(const Sizes &sizes, const std::vector<uint64_t> &shifts)
	{
		for (uint32_t format : {KVH_FORMAT_NATIVE, KVH_FORMAT_PORTABLE})
			for (const Layout &layout : all_layouts(sizes, format))
				for (uint64_t shift : shifts) {
					check(layout, shift, shift + 1);
					if (HasFatalFailure())
						return;
				}
	}

	kvh_device *dev_ = nullptr;
	kvh_stream stream_ = nullptr;
	void *device_block_ = nullptr, *mirror_block_ = nullptr, *back_ = nullptr;
	unsigned char *device_ = nullptr, *mirror_ = nullptr;
	uint64_t used_ = 0, plan_at_ = 0;
	Plan plan_, device_plan_;
};

TEST_P(PackOnDevice, EveryLayoutAtEveryAlignment)
{
	check_all(Sizes{}, {0, 1, 2, 4, 8, 37});
}

TEST_P(PackOnDevice, OddSizes)
{
	check_all(Sizes{3, 5, 3, 2, 5, 2}, {0, 1});
}

/* Units of several tiles, the last of them not full. */
TEST_P(PackOnDevice, LargeUnits)
{
	check_all(Sizes{1, 6, 16, 4, 272, 2}, {0, 8, 3});
}

TEST_P(PackOnDevice, RealHeads)
{
	check_all(Sizes{2, 16, 16, 8, 256, 4}, {0});
}

TEST_P(PackOnDevice, RandomLayouts)
{
	const uint64_t first = property_first(), end = first + property_cases(500);

	for (uint64_t seed = first; seed < end; seed++) {
		check(random_layout(seed), seed % 17, seed);
		ASSERT_FALSE(HasFailure()) << "seed " << seed;
	}
}

INSTANTIATE_TEST_SUITE_P(Devices, PackOnDevice, testing::Values("host", "cuda"),
			 [](const auto &info) { return std::string(info.param); });

} // namespace
