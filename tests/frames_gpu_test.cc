/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frames_gpu_test.cc - every layout of docs/kv-layouts.md through the mover, into payloads
 * and back, with guard bytes around all of it: around the tensors, between a frame and the
 * next, on the host and on the device. What each byte has to be, the plain-C twins say. On
 * the host device, too, which shows that the test itself is right where there is no GPU.
 */
#include "cuda/mover.h"
#include "tests/device_or_skip.h"
#include "tests/pack_check.h"

#include <condition_variable>
#include <mutex>

using namespace layouts;

namespace
{

constexpr uint64_t GUARD = 256; /* around a payload */

class Frames : public testing::TestWithParam<const char *>
{
      protected:
	void SetUp() override
	{
		kvh_mover_opts opts = {};

		DEVICE_OR_SKIP(GetParam(), &dev_);
		opts.stage_bytes = 4096; /* several a chunk */
		ASSERT_EQ(kvh_mover_open(dev_, &opts, &mover_), 0);
		ASSERT_EQ(dev_->ops->stream_create(dev_, 0, &stream_), 0);
	}
	void TearDown() override
	{
		if (dev_ == nullptr)
			return;
		if (mover_ != nullptr)
			kvh_mover_close(mover_);
		if (stream_ != nullptr)
			dev_->ops->stream_destroy(dev_, stream_);
		dev_->ops->close(dev_);
	}
	void copy(kvh_copy_kind kind, void *dst, const void *src, uint64_t bytes)
	{
		const kvh_copy c = {dst, src, bytes};

		ASSERT_EQ(dev_->ops->copy(dev_, kind, &c, stream_), 0);
		ASSERT_EQ(dev_->ops->stream_wait(dev_, stream_), 0);
	}

	kvh_device *dev_ = nullptr;
	kvh_mover *mover_ = nullptr;
	kvh_stream stream_ = nullptr;

	/* ---- one group, its pool in both memories ---- */

	Memory *image_ = nullptr;
	std::vector<void *> blocks_; /* of the device: copies of the image's */
	Plan plan_, there_;          /* over the image, over the device's */
	kvh_mover_plan mplan_ = {};
	void *host_ = nullptr; /* the payloads' */
	uint64_t stride_ = 0;  /* from one to the next */
	uint32_t n_ = 0;
	std::vector<void *> payloads_;
	Bytes want_; /* of all of host_ */

	void open(const Layout &layout, const Group &g, Memory &image)
	{
		std::vector<kvh_alloc> allocs;

		image_ = &image;
		for (uint32_t i = 0; i < image.n(); i++) {
			const Bytes &block = image.all()[i];
			const kvh_alloc &alloc = image.allocs()[i];
			void *mem = nullptr;

			ASSERT_EQ(dev_->ops->mem_alloc(dev_, block.size(), &mem), 0);
			blocks_.push_back(mem);
			copy(KVH_COPY_H2D, mem, block.data(), block.size());
			allocs.push_back({static_cast<unsigned char *>(mem) +
						  (static_cast<unsigned char *>(alloc.base) -
						   block.data()),
					  alloc.bytes});
		}
		plan_ = plan_make(layout, g, image.allocs());
		there_ = plan_make(layout, g, allocs);
		ASSERT_NE(plan_, nullptr);
		ASSERT_NE(there_, nullptr);
		ASSERT_EQ(kvh_mover_plan_add(mover_, there_.get(), &mplan_), 0);
		n_ = g.n_pages / plan_->pages_per_chunk;
		stride_ = (plan_->payload_bytes + GUARD + 63) / 64 * 64;
		ASSERT_GT(n_, 0u);
		ASSERT_EQ(dev_->ops->host_alloc(dev_, n_ * stride_ + GUARD, &host_), 0);
		for (uint32_t i = 0; i < n_; i++)
			payloads_.push_back(static_cast<unsigned char *>(host_) + GUARD +
					    i * stride_);
	}
	void close()
	{
		if (mplan_.dev_plan != nullptr)
			kvh_mover_plan_remove(mover_, &mplan_);
		if (host_ != nullptr)
			dev_->ops->host_free(dev_, host_);
		for (void *mem : blocks_)
			dev_->ops->mem_free(dev_, mem);
		blocks_.clear();
		payloads_.clear();
		host_ = nullptr;
		mplan_ = {};
	}
	void scramble(Rng &rng)
	{
		want_.resize(n_ * stride_ + GUARD);
		for (auto &b : want_)
			b = static_cast<unsigned char>(rng());
		memcpy(host_, want_.data(), want_.size());
	}
	std::vector<uint32_t> draw(uint32_t n_pages, bool absent, Rng &rng) const
	{
		std::vector<uint32_t> pages(n_pages);

		for (uint32_t i = 0; i < n_pages; i++)
			pages[i] = i;
		std::shuffle(pages.begin(), pages.end(), rng);
		pages.resize(size_t{n_} * plan_->pages_per_chunk);
		for (auto &page : pages)
			if (absent && below(rng, 8) == 0)
				page = KVH_PAGE_NONE;
		return pages;
	}
	/* What the twin makes of chunk i: of the bytes wanted, or of the image. */
	void twin(const std::vector<uint32_t> &pages, uint32_t i, bool gather)
	{
		kvh_pack pack = {};

		pack.plan = plan_.get();
		pack.pages = &pages[i * plan_->pages_per_chunk];
		pack.stage = &want_[GUARD + i * stride_];
		pack.plane_end = plan_->n_planes;
		pack.n_units = uint64_t{plan_->n_planes} * plan_->pages_per_chunk;
		kvh_pack_prepare(&pack, plan_.get());
		ASSERT_EQ(gather ? kvh_gather_ref(&pack) : kvh_scatter_ref(&pack), 0);
	}

	struct Landing {
		std::mutex lock;
		std::condition_variable changed;
		bool landed = false;
	};
	void move(const std::vector<uint32_t> &pages, bool load)
	{
		std::vector<int32_t> status(n_, 1);
		kvh_move_part part = {};
		kvh_move move = {};
		Landing landing;

		part.plan = &mplan_;
		part.n = n_;
		part.payloads = payloads_.data();
		part.pages = pages.data();
		part.status = status.data();
		move.parts = &part;
		move.n_parts = 1;
		move.arg = &landing;
		move.done = [](kvh_move *done) {
			auto *l = static_cast<Landing *>(done->arg);
			const std::lock_guard<std::mutex> hold(l->lock);

			l->landed = true;
			l->changed.notify_all();
		};
		ASSERT_EQ(load ? kvh_mover_load(mover_, &move, stream_, nullptr)
			       : kvh_mover_store(mover_, &move, stream_, nullptr),
			  0);
		{
			std::unique_lock<std::mutex> hold(landing.lock);

			landing.changed.wait(hold, [&] { return landing.landed; });
		}
		if (load)
			kvh_mover_forget(mover_, &move);
		ASSERT_EQ(move.status, 0);
	}
	/* Payloads and all that is between them; tensors and all that is around them. */
	testing::AssertionResult all_right()
	{
		if (memcmp(host_, want_.data(), want_.size()) != 0)
			return testing::AssertionFailure() << "payloads differ";
		for (uint32_t i = 0; i < image_->n(); i++) {
			const Bytes &block = image_->all()[i];
			Bytes got(block.size());

			copy(KVH_COPY_D2H, got.data(), blocks_[i], got.size());
			if (got != block)
				return testing::AssertionFailure()
				       << "tensor " << i << " differs";
		}
		return testing::AssertionSuccess();
	}

	void check_group(const Layout &layout, const Group &g, uint64_t shift)
	{
		Rng rng(shift + 1);
		Memory image(layout.allocs, shift, rng());

		open(layout, g, image);
		if (!HasFatalFailure()) {
			const auto from = draw(g.n_pages, false, rng);

			scramble(rng);
			for (uint32_t i = 0; i < n_; i++)
				twin(from, i, true);
			move(from, false);
			EXPECT_TRUE(all_right());
		}
		if (!HasFatalFailure()) {
			const auto to = draw(g.n_pages, true, rng);

			scramble(rng);
			for (uint32_t i = 0; i < n_; i++)
				twin(to, i, false);
			move(to, true);
			EXPECT_TRUE(all_right());
		}
		close();
	}
	void check_all(const Sizes &sizes, const std::vector<uint64_t> &shifts)
	{
		for (uint32_t format : {KVH_FORMAT_NATIVE, KVH_FORMAT_PORTABLE})
			for (const Layout &layout : all_layouts(sizes, format))
				for (const Group &g : layout.groups)
					for (uint64_t shift : shifts) {
						SCOPED_TRACE(layout.name + " shift " +
							     std::to_string(shift));
						check_group(layout, g, shift);
						if (HasFailure())
							return;
					}
	}
};

TEST_P(Frames, EveryLayoutBetweenGuards)
{
	check_all(Sizes{}, {0, 1, 8});
}

TEST_P(Frames, RealHeads)
{
	check_all(Sizes{2, 16, 16, 8, 256, 4}, {0});
}

/* The control: a byte of a guard that changes is seen. */
TEST_P(Frames, ControlAByteInAGuardIsSeen)
{
	Rng rng(1);
	const auto layout = all_layouts(Sizes{}, KVH_FORMAT_NATIVE)[0];
	Memory image(layout.allocs, 0, 1);

	open(layout, layout.groups[0], image);
	ASSERT_FALSE(HasFatalFailure());
	const auto from = draw(layout.groups[0].n_pages, false, rng);
	scramble(rng);
	for (uint32_t i = 0; i < n_; i++)
		twin(from, i, true);
	move(from, false);
	EXPECT_TRUE(all_right());
	const unsigned char other = static_cast<unsigned char>(image.all()[0][0] ^ 1);

	copy(KVH_COPY_H2D, blocks_[0], &other, 1); /* in front of the first tensor */
	EXPECT_FALSE(all_right());
	close();
}

INSTANTIATE_TEST_SUITE_P(Devices, Frames, testing::Values("host", "cuda"),
			 [](const auto &info) { return std::string(info.param); });

} // namespace
