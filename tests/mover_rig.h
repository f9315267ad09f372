/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_rig.h - a device, a mover and pools for the mover's tests. Pool memory
 * has an image on the host, and the plain-C twins over a plan of the image say
 * what every byte has to be, on any device. A rig is used by one thread, jobs by
 * the one that made them.
 */
#ifndef KVH_TESTS_MOVER_RIG_H
#define KVH_TESTS_MOVER_RIG_H

#include "cuda/pack.h"
#include "tests/mover_mode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace rig
{

using Rng = std::mt19937_64;
using Bytes = std::vector<unsigned char>;
using Pages = std::vector<uint32_t>;

constexpr uint32_t CHUNK_TOKENS = 32;
constexpr size_t GUARD = 256; /* bytes around planes and payloads */

inline void fill(Rng &rng, void *mem, size_t bytes)
{
	unsigned char *at = static_cast<unsigned char *>(mem);

	for (size_t i = 0; i < bytes; i++)
		at[i] = static_cast<unsigned char>(rng());
}

struct Shape {
	uint32_t planes = 4;
	uint32_t planes_a_layer = 2;
	uint32_t first_layer = 0;
	uint32_t layer_step = 1;
	uint32_t heads = 2;
	uint32_t head_bytes = 32;
	uint32_t order = KVH_ORDER_NHD;
	uint32_t format = KVH_FORMAT_NATIVE;
	uint32_t page_tokens = 8;
	uint32_t gap = 0;    /* bytes between pages */
	uint64_t opaque = 0; /* bytes a page of a last plane of this kind; 0: none */
	uint32_t n_pages = 64;
};

class Rig;

class Group
{
      public:
	Group(Rig &rig, const Shape &shape);
	~Group();
	Group(const Group &) = delete;
	Group &operator=(const Group &) = delete;

	uint32_t pages_per_chunk() const
	{
		return ref->pages_per_chunk;
	}
	uint64_t payload_bytes() const
	{
		return ref->payload_bytes;
	}
	/* What a chunk's payload must be after a store of these pages. */
	Bytes gathered(const uint32_t *pages);
	/* Does to the image what a load of the payload does to the pool. */
	void scatter(const uint32_t *pages, const void *payload, uint32_t plane_first = 0,
		     uint32_t plane_end = UINT32_MAX);
	void upload();
	Bytes download();
	void *memory() const
	{
		return mem;
	}
	/* Where plane i lies in the pool, without its guards. */
	uint64_t plane_offset(uint32_t i) const
	{
		return planes[i].offset;
	}
	uint64_t plane_bytes(uint32_t i) const
	{
		return planes[i].page_stride * shape.n_pages;
	}

	Shape shape;
	Bytes image;
	struct kvh_plan *plan = nullptr, *ref = nullptr;
	struct kvh_mover_plan mplan {
	};

      private:
	void describe();
	struct kvh_plan *plan_over(void *base);
	void transfer(enum kvh_copy_kind kind, void *dst, const void *src);
	struct kvh_pack pack(const uint32_t *pages, void *stage, uint32_t first, uint32_t end);

	Rig &rig;
	void *mem = nullptr;
	uint64_t bytes = 0;
	std::vector<kvh_plane_shape> shapes;
	std::vector<kvh_plane> planes;
};

class Rig
{
      public:
	explicit Rig(Mode mode, uint64_t stage_bytes = 0, uint32_t n_stages = 0,
		     uint64_t seed = 1)
	    : kind(mode.kind), rng(seed)
	{
		struct kvh_mover_opts opts {
		};

		opts.stage_bytes = stage_bytes;
		opts.n_stages = n_stages;
		opts.threadless = kind == Kind::STEPPED;
		opts.way = mode.way;
		if (seed % 3 == 0)
			opts.layer_bytes = 1 << 20; /* as on a GPU */
		if (open_device(kind, &dev))
			open_mover(opts);
	}
	/* Takes a host device. */
	Rig(struct kvh_device *dev, const struct kvh_mover_opts &opts)
	    : kind(opts.threadless ? Kind::STEPPED : Kind::HOST), rng(1), dev(dev)
	{
		open_mover(opts);
	}
	/* A stream and groups of its own on the device and mover of another. */
	Rig(Rig &owner, uint64_t seed)
	    : kind(owner.kind), rng(seed), dev(owner.dev), mover(owner.mover), shares(true)
	{
		EXPECT_EQ(0, dev->ops->stream_create(dev, 0, &stream));
	}
	~Rig()
	{
		if (!dev)
			return;
		if (!shares)
			close_mover();
		groups.clear();
		dev->ops->stream_destroy(dev, stream);
		if (!shares)
			dev->ops->close(dev);
	}
	Rig(const Rig &) = delete;
	Rig &operator=(const Rig &) = delete;

	Group &group(const Shape &shape)
	{
		groups.push_back(std::make_unique<Group>(*this, shape));
		return *groups.back();
	}
	/* Waits for all that is on the device. The plans go with it; memory stays. */
	void close_mover()
	{
		if (!mover)
			return;
		for (auto &g : groups)
			if (g->mplan.dev_plan)
				closing.push_back(g->mplan.dev_plan);
		kvh_mover_close(mover);
		mover = nullptr;
		for (const void *plan : closing)
			dev->ops->mem_free(dev, const_cast<void *>(plan));
		closing.clear();
	}
	void rule(enum kvh_host_call call, enum kvh_host_action action, uint64_t nth = 1,
		  uint64_t count = 1, int error = EIO)
	{
		struct kvh_host_rule r = {call, action, nth, count, error, 0};

		ASSERT_EQ(0, kvh_host_rule_add(dev, &r));
	}
	/* Until nothing can go on (stepped), or until `held` streams are held. */
	void settle(uint32_t held)
	{
		if (kind == Kind::HOST)
			kvh_host_held_wait(dev, held);
		while (kind == Kind::STEPPED && step()) {}
	}
	/* Until the call has been counted n times since open. */
	void until(enum kvh_host_call call, uint64_t n)
	{
		while (kvh_host_count(dev, call) < n) {
			if (kind == Kind::STEPPED)
				ASSERT_TRUE(step());
			else
				std::this_thread::yield();
		}
	}
	/* Stepped: one random step of mover or device; false: nothing can go on. */
	bool step()
	{
		bool first = rng() & 1;

		if (first && kvh_mover_step(mover))
			return true;
		return kvh_host_step(dev, rng()) || (!first && kvh_mover_step(mover));
	}

	Kind kind;
	Rng rng;
	struct kvh_device *dev = nullptr;
	struct kvh_mover *mover = nullptr;
	kvh_stream stream = nullptr; /* the runtime's */
	std::vector<std::unique_ptr<Group>> groups;

      private:
	void open_mover(const struct kvh_mover_opts &opts)
	{
		EXPECT_EQ(0, kvh_mover_open(dev, &opts, &mover));
		EXPECT_EQ(0, dev->ops->stream_create(dev, 0, &stream));
	}
	bool shares = false;
	std::vector<const void *> closing;
};

/* ---- group ------------------------------------------------------------ */

inline void Group::describe()
{
	uint32_t n = shape.planes + (shape.opaque ? 1 : 0);
	uint64_t at = GUARD;

	for (uint32_t i = 0; i < n; i++) {
		bool opaque = i == shape.planes;
		uint64_t token = uint64_t(shape.heads) * shape.head_bytes;
		uint64_t unit = opaque ? shape.opaque : token * shape.page_tokens;
		kvh_plane_shape s{};
		kvh_plane p{};

		s.kind = opaque ? KVH_PLANE_OPAQUE : KVH_PLANE_TOKENS;
		s.layer = shape.first_layer + i / shape.planes_a_layer * shape.layer_step;
		s.heads = opaque ? 0 : shape.heads;
		s.head_bytes = opaque ? 0 : shape.head_bytes;
		s.order = opaque ? 0 : shape.order;
		s.page_bytes = opaque ? shape.opaque : 0;
		p.offset = at;
		p.page_stride = unit + shape.gap;
		if (!opaque && shape.order == KVH_ORDER_NHD) {
			p.token_stride = token;
			p.head_stride = shape.head_bytes;
		} else if (!opaque) {
			p.token_stride = shape.head_bytes;
			p.head_stride = uint64_t(shape.head_bytes) * shape.page_tokens;
		}
		shapes.push_back(s);
		planes.push_back(p);
		at += p.page_stride * shape.n_pages + GUARD;
	}
	bytes = at;
}

inline struct kvh_plan *Group::plan_over(void *base)
{
	kvh_group_desc desc{};
	kvh_alloc alloc = {base, bytes};
	struct kvh_plan *made = nullptr;

	desc.kind = KVH_GROUP_FULL;
	desc.format = shape.format;
	desc.page_tokens = shape.page_tokens;
	desc.n_planes = uint32_t(shapes.size());
	desc.planes = shapes.data();
	EXPECT_EQ(0, kvh_plan_make(&desc, CHUNK_TOKENS, &alloc, 1, planes.data(), 0,
				   shape.n_pages, &made));
	return made;
}

inline Group::Group(Rig &rig, const Shape &shape) : shape(shape), rig(rig)
{
	describe();
	image.resize(bytes);
	fill(rig.rng, image.data(), bytes);
	EXPECT_EQ(0, rig.dev->ops->mem_alloc(rig.dev, bytes, &mem));
	plan = plan_over(mem);
	ref = plan_over(image.data());
	EXPECT_EQ(0, kvh_mover_plan_add(rig.mover, plan, &mplan));
	upload();
}

inline Group::~Group()
{
	if (rig.mover && mplan.dev_plan)
		kvh_mover_plan_remove(rig.mover, &mplan);
	kvh_plan_free(plan);
	kvh_plan_free(ref);
	rig.dev->ops->mem_free(rig.dev, mem);
}

inline void Group::transfer(enum kvh_copy_kind kind, void *dst, const void *src)
{
	struct kvh_copy copy = {dst, src, bytes};

	if (rig.kind != Kind::CUDA) { /* also of a device that has died */
		memcpy(dst, src, bytes);
		return;
	}
	EXPECT_EQ(0, rig.dev->ops->copy(rig.dev, kind, &copy, rig.stream));
	EXPECT_EQ(0, rig.dev->ops->stream_wait(rig.dev, rig.stream));
}

inline void Group::upload()
{
	transfer(KVH_COPY_H2D, mem, image.data());
}

inline Bytes Group::download()
{
	Bytes out(bytes);

	transfer(KVH_COPY_D2H, out.data(), mem);
	return out;
}

inline struct kvh_pack Group::pack(const uint32_t *pages, void *stage, uint32_t first,
				   uint32_t end)
{
	struct kvh_pack p {
	};

	p.plan = ref;
	p.pages = pages;
	p.stage = static_cast<unsigned char *>(stage);
	p.plane_first = first;
	p.plane_end = std::min(end, ref->n_planes);
	p.n_units = uint64_t(p.plane_end - first) * ref->pages_per_chunk;
	kvh_pack_prepare(&p, ref);
	return p;
}

inline Bytes Group::gathered(const uint32_t *pages)
{
	Bytes out(payload_bytes());
	struct kvh_pack p = pack(pages, out.data(), 0, UINT32_MAX);

	EXPECT_EQ(0, kvh_gather_ref(&p));
	return out;
}

inline void Group::scatter(const uint32_t *pages, const void *payload, uint32_t plane_first,
			   uint32_t plane_end)
{
	const unsigned char *from = static_cast<const unsigned char *>(payload);
	Bytes band(from + ref->planes[plane_first].payload_off, from + payload_bytes());
	struct kvh_pack p = pack(pages, band.data(), plane_first, plane_end);

	EXPECT_EQ(0, kvh_scatter_ref(&p));
}

/* ---- job -------------------------------------------------------------- */

/* A move with its payloads, each between guards. */
class Job
{
      public:
	explicit Job(Rig &rig) : rig(rig)
	{
	}
	~Job()
	{
		EXPECT_TRUE(!accepted || finished());
		if (accepted && load && rig.mover)
			kvh_mover_forget(rig.mover, &move);
		for (auto &part : parts)
			rig.dev->ops->host_free(rig.dev, part.block);
	}
	Job(const Job &) = delete;
	Job &operator=(const Job &) = delete;

	/* n chunks of random pages, none twice; `absent` percent are left out. */
	void add(Group &g, uint32_t n, unsigned absent = 0)
	{
		Pages all(g.shape.n_pages);

		for (uint32_t i = 0; i < all.size(); i++)
			all[i] = i;
		std::shuffle(all.begin(), all.end(), rig.rng);
		ASSERT_LE(n * g.pages_per_chunk(), all.size());
		all.resize(size_t(n) * g.pages_per_chunk());
		for (auto &page : all)
			if (rig.rng() % 100 < absent)
				page = KVH_PAGE_NONE;
		add(g, all);
	}
	void add(Group &g, const Pages &pages)
	{
		Part part;
		size_t n = pages.size() / g.pages_per_chunk();
		size_t stride = (g.payload_bytes() + 2 * GUARD + 63) & ~size_t(63);
		void *block = nullptr;

		ASSERT_EQ(0, rig.dev->ops->host_alloc(rig.dev, n * stride + 64, &block));
		part.group = &g;
		part.block = static_cast<unsigned char *>(block);
		part.before.resize(n * stride);
		fill(rig.rng, part.before.data(), part.before.size());
		std::copy(part.before.begin(), part.before.end(),
			  static_cast<unsigned char *>(block));
		part.pages = pages;
		part.status.assign(n, 12345);
		for (size_t i = 0; i < n; i++)
			part.payloads.push_back(part.block + i * stride + GUARD);
		parts.push_back(std::move(part));
	}
	int start(bool is_load, kvh_stream stream, kvh_event_mark event = nullptr)
	{
		int rc;

		load = is_load;
		cparts.clear();
		for (auto &p : parts)
			cparts.push_back({&p.group->mplan, uint32_t(p.payloads.size()),
					  p.payloads.data(), p.pages.data(), p.status.data()});
		move = {};
		move.parts = cparts.data();
		move.n_parts = uint32_t(cparts.size());
		move.done = on_done;
		move.arg = this;
		move.layered = layered;
		rc = load ? kvh_mover_load(rig.mover, &move, stream, event)
			  : kvh_mover_store(rig.mover, &move, stream, event);
		accepted = rc == 0;
		return rc;
	}
	/* Of a store by layers. */
	int give(uint32_t layer, kvh_stream stream, kvh_event_mark event = nullptr)
	{
		return kvh_mover_store_layer(rig.mover, &move, layer, stream, event);
	}
	bool finished()
	{
		std::lock_guard<std::mutex> hold(lock);

		return n_done != 0;
	}
	void wait()
	{
		if (rig.kind == Kind::STEPPED) {
			while (!finished())
				ASSERT_TRUE(rig.step()) << "nothing can go on";
		} else {
			std::unique_lock<std::mutex> hold(lock);

			changed.wait(hold, [this] { return n_done != 0; });
		}
		std::lock_guard<std::mutex> hold(lock);
		ASSERT_EQ(1u, n_done);
	}
	/* Until the mover's thread has looked twice at what is in flight: it has made
	 * a whole pass. Or until it has nothing in flight any more. */
	void until_polled()
	{
		uint64_t n = kvh_host_count(rig.dev, KVH_HOST_QUERY) + 2;

		while (rig.kind == Kind::HOST && !finished() &&
		       kvh_host_count(rig.dev, KVH_HOST_QUERY) < n)
			std::this_thread::yield();
	}
	/* Chunk i of part p holds what the image says; else it, and every guard, is
	 * what it was. */
	bool stored(size_t p, size_t i)
	{
		Part &part = parts[p];
		Bytes want = part.group->gathered(&part.pages[i * ppc(part)]);

		return memcmp(want.data(), part.payloads[i], want.size()) == 0;
	}
	bool guards_intact()
	{
		for (auto &part : parts) {
			Bytes now(part.block, part.block + part.before.size());

			for (size_t i = 0; i < part.payloads.size(); i++) {
				size_t off = size_t(
					static_cast<unsigned char *>(part.payloads[i]) -
					part.block);

				memcpy(&now[off], &part.before[off],
				       part.group->payload_bytes());
			}
			if (now != part.before)
				return false;
		}
		return true;
	}
	void expect_stored()
	{
		EXPECT_EQ(0, move.status);
		for (size_t p = 0; p < parts.size(); p++)
			for (size_t i = 0; i < parts[p].payloads.size(); i++) {
				EXPECT_EQ(0, parts[p].status[i]);
				EXPECT_TRUE(stored(p, i)) << "part " << p << " chunk " << i;
			}
		EXPECT_TRUE(guards_intact());
	}
	size_t chunks() const
	{
		size_t n = 0;

		for (const Part &part : parts)
			n += part.payloads.size();
		return n;
	}
	bool untouched()
	{
		for (auto &part : parts)
			if (memcmp(part.block, part.before.data(), part.before.size()))
				return false;
		return true;
	}
	/* The image gets what the load of these planes should have done. */
	void apply_planes(size_t p, uint32_t first, uint32_t end)
	{
		Part &part = parts[p];

		for (size_t i = 0; i < part.payloads.size(); i++)
			part.group->scatter(&part.pages[i * ppc(part)], part.payloads[i], first,
					    end);
	}
	/* The image gets what the load should have done. */
	void apply()
	{
		for (auto &part : parts)
			for (size_t i = 0; i < part.payloads.size(); i++)
				part.group->scatter(&part.pages[i * ppc(part)],
						    part.payloads[i]);
	}
	void expect_loaded()
	{
		EXPECT_EQ(0, move.status);
		EXPECT_FALSE(move.pages_lost);
		apply();
		for (auto &part : parts) {
			for (int32_t status : part.status)
				EXPECT_EQ(0, status);
			EXPECT_TRUE(part.group->download() == part.group->image);
		}
	}

	struct Part {
		Group *group;
		Pages pages;
		std::vector<void *> payloads;
		std::vector<int32_t> status;
		unsigned char *block;
		Bytes before;
	};

	Rig &rig;
	std::deque<Part> parts;
	struct kvh_move move {
	};
	bool load = false, accepted = false;
	bool layered = false;  /* set before start */
	uint64_t done_seq = 0; /* the how many-th done of all jobs */

      private:
	static size_t ppc(const Part &part)
	{
		return part.group->pages_per_chunk();
	}
	static void on_done(struct kvh_move *move)
	{
		static std::atomic<uint64_t> seq{0};
		Job *job = static_cast<Job *>(move->arg);
		std::lock_guard<std::mutex> hold(job->lock);

		job->n_done++;
		job->done_seq = ++seq;
		job->changed.notify_all();
	}

	std::vector<struct kvh_move_part> cparts;
	std::mutex lock;
	std::condition_variable changed;
	unsigned n_done = 0;
};

} // namespace rig

#endif
