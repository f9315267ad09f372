/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine_rig.h - an engine on a host device, or on several, spaces and pools of the layouts
 * of layouts.h. Bytes of a chunk follow from its key, so that whoever loads it
 * knows what they have to be.
 */
#ifndef KVH_TESTS_ENGINE_RIG_H
#define KVH_TESTS_ENGINE_RIG_H

#include "cuda/device_host.h"
#include "host/engine.h"
#include "l2_harness.h"
#include "layouts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace enginetest
{

using l2test::Dir;
using l2test::Log;
using layouts::Bytes;
using layouts::Layout;
using layouts::Sizes;
using Pages = std::vector<uint32_t>;

constexpr uint64_t MIB = UINT64_C(1) << 20;
/* Against tests that hang; no test is about it. */
constexpr uint64_t GUARD_NS = UINT64_C(200000000000);

inline Sizes sizes(uint32_t pages)
{
	Sizes s;

	s.NB = pages;
	return s;
}

/* 16 chunks of two pages, and as many to load them to. */
inline Layout small_layout(uint32_t format = KVH_FORMAT_NATIVE, uint32_t pages = 64)
{
	return layouts::dense("small", "pkthd", sizes(pages), format);
}

/* ---- space -------------------------------------------------------------- */

struct Desc {
	Layout layout = small_layout();
	std::string model = "m-7", revision = "r1", dtype = "bf16", quant = "none",
		    runner = "run-1", hash_algo = "sha256", hash_seed = "0", salt;
	uint32_t layers = 2, heads = 3, head_size = 16, tp_size = 1, pp_size = 1;

	int open(kvh_engine *engine, kvh_space_t *space_p) const
	{
		std::vector<kvh_group_desc> groups;
		const kvh_space_desc desc = fields(groups);

		return kvh_space_open(engine, &desc, space_p);
	}
	kvh_space_desc fields(std::vector<kvh_group_desc> &groups) const
	{
		kvh_space_desc d;

		kvh_space_desc_init(&d, sizeof(d));
		for (const auto &g : layout.groups)
			groups.push_back(g.desc());
		d.model = model.c_str();
		d.revision = revision.c_str();
		d.dtype = dtype.c_str();
		d.quant = quant.c_str();
		d.runner = runner.c_str();
		d.hash_algo = hash_algo.c_str();
		d.hash_seed = hash_seed.c_str();
		d.salt = salt.data();
		d.salt_len = salt.size();
		d.chunk_tokens = layout.chunk_tokens;
		d.layers = layers;
		d.heads = heads;
		d.head_size = head_size;
		d.tp_size = tp_size;
		d.pp_size = pp_size;
		d.n_groups = static_cast<uint32_t>(groups.size());
		d.groups = groups.data();
		return d;
	}
};

/* ---- engine ------------------------------------------------------------- */

struct Opts {
	std::vector<std::string> l2;
	uint64_t l1_bytes = 32 * MIB;
	const char *policy = nullptr;
	uint64_t l2_deadline_ns = 0;
	uint64_t l2_queue_bytes = 0;
	uint32_t high_pct = 0, low_pct = 0;
	const char *l1_eviction = nullptr;
	uint64_t space_l1_hard = 0, space_l2_hard = 0;
	bool l1_pin_wait = false;
	const char *device = "host";
	uint64_t l1_piece_bytes = 0;
};

inline int open_engine(const Opts &opts, kvh_engine **engine_p)
{
	std::vector<const char *> specs;
	kvh_engine_opts o;

	for (const auto &spec : opts.l2)
		specs.push_back(spec.c_str());
	kvh_engine_opts_init(&o, sizeof(o));
	o.device = opts.device;
	o.l1_bytes = opts.l1_bytes;
	o.l1_piece_bytes = opts.l1_piece_bytes;
	o.l2 = specs.data();
	o.n_l2 = static_cast<uint32_t>(specs.size());
	o.policy = opts.policy;
	o.stage_bytes = 64 << 10;
	o.l2_deadline_ns = opts.l2_deadline_ns;
	o.l2_queue_bytes = opts.l2_queue_bytes;
	o.watermark_high_pct = opts.high_pct;
	o.watermark_low_pct = opts.low_pct;
	o.l1_eviction = opts.l1_eviction;
	o.space_l1_hard_bytes = opts.space_l1_hard;
	o.space_l2_hard_bytes = opts.space_l2_hard;
	o.l1_pin_wait = opts.l1_pin_wait;
	return kvh_engine_open(&o, engine_p);
}

class Engine
{
      public:
	explicit Engine(const Opts &opts = {})
	{
		EXPECT_EQ(0, open_engine(opts, &engine_));
	}
	/* Takes it over. */
	explicit Engine(kvh_engine *engine) : engine_(engine)
	{
	}
	~Engine()
	{
		EXPECT_EQ(0, kvh_engine_close(engine_, 0));
	}
	Engine(const Engine &) = delete;
	Engine &operator=(const Engine &) = delete;

	/* Lets stores finish first: then L2 has what it will have. */
	int close(uint64_t drain_ns = GUARD_NS)
	{
		return kvh_engine_close(std::exchange(engine_, nullptr), drain_ns);
	}
	kvh_engine *get() const
	{
		return engine_;
	}
	kvh_device *dev(uint32_t i = 0) const
	{
		return engine_->devices.list[i].dev;
	}
	kvh_device_status device(uint32_t i) const
	{
		kvh_device_status st{};

		st.size = sizeof(st);
		EXPECT_EQ(0, kvh_device_status_get(engine_, i, &st));
		return st;
	}
	kvh_space_t space(const Desc &desc) const
	{
		kvh_space_t space = KVH_NONE;

		EXPECT_EQ(0, desc.open(engine_, &space));
		return space;
	}
	kvh_status status() const
	{
		kvh_status st{};

		st.size = sizeof(st);
		EXPECT_EQ(0, kvh_status_get(engine_, &st));
		return st;
	}
	/* READY frames that nobody holds leave L1. */
	void evict() const
	{
		kvh_l1_evict(engine_->l1, 0);
	}
	/* Until every adapter has what was stored. */
	void drain() const
	{
		EXPECT_TRUE(kvh_controller_drain_wait(engine_->controller, UINT64_MAX));
	}
	void hold(enum kvh_host_call call, uint64_t nth = 1, uint64_t count = UINT64_MAX) const
	{
		rule(call, KVH_HOST_HOLD, nth, count);
	}
	void lie(enum kvh_host_call call) const
	{
		rule(call, KVH_HOST_LIE, 1, UINT64_MAX);
	}
	void fail(enum kvh_host_call call, uint64_t nth, int error, uint64_t count = 1) const
	{
		rule(call, KVH_HOST_FAIL, nth, count, error);
	}
	/* On all devices. */
	void release() const
	{
		for (uint32_t i = 0; i < engine_->devices.n; i++)
			kvh_host_release(dev(i));
	}

      private:
	void rule(enum kvh_host_call call, enum kvh_host_action action, uint64_t nth,
		  uint64_t count, int error = 0) const
	{
		const kvh_host_rule rule = {call, action, nth, count, error, 0};

		ASSERT_EQ(0, kvh_host_rule_add(dev(), &rule));
	}

	kvh_engine *engine_ = nullptr;
};

/* A stream of the user's; work on it is held as a rule says. */
class Stream
{
      public:
	explicit Stream(const Engine &engine, uint32_t device = 0) : dev_(engine.dev(device))
	{
		EXPECT_EQ(0, dev_->ops->stream_create(dev_, 0, &stream_));
		EXPECT_EQ(0, dev_->ops->event_create(dev_, &event_));
	}
	~Stream()
	{
		dev_->ops->stream_destroy(dev_, stream_);
		dev_->ops->event_destroy(dev_, event_);
	}
	Stream(const Stream &) = delete;
	Stream &operator=(const Stream &) = delete;

	kvh_stream get() const
	{
		return stream_;
	}
	kvh_event_mark mark()
	{
		EXPECT_EQ(0, dev_->ops->event_record(dev_, event_, stream_));
		return event_;
	}
	bool reached() const
	{
		return dev_->ops->event_query(dev_, event_) == 1;
	}
	void copy(void *dst, const void *src, uint64_t bytes)
	{
		const kvh_copy c = {dst, src, bytes};

		EXPECT_EQ(0, dev_->ops->copy(dev_, KVH_COPY_D2D, &c, stream_));
	}
	/* What comes next does not run before the event. */
	void wait_for(kvh_event_mark event)
	{
		EXPECT_EQ(0, dev_->ops->stream_wait_event(dev_, stream_, event));
	}
	/* The next thing on the stream does not run until kvh_host_release. Only
	 * while nothing else copies: the hold would be that's. */
	void block(const Engine &engine)
	{
		engine.hold(KVH_HOST_COPY, 1, 1);
		copy(&scratch_[0], &scratch_[1], 1);
		kvh_host_held_wait(dev_, 1);
	}
	void wait()
	{
		EXPECT_EQ(0, dev_->ops->stream_wait(dev_, stream_));
	}

      private:
	kvh_device *dev_;
	kvh_stream stream_ = nullptr;
	kvh_event_mark event_ = nullptr;
	char scratch_[2] = {};
};

/* ---- keys and bytes ----------------------------------------------------- */

inline uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 32) * UINT64_C(0xE9846AF9B1A615D);
	x = (x ^ x >> 32) * UINT64_C(0xE9846AF9B1A615D);
	return x ^ x >> 28;
}

inline kvh_hash hash_of(uint64_t seed, uint64_t i)
{
	const uint64_t words[2] = {mix(seed * 1000003 + i + 1), mix(i * 1000003 + seed + 7)};
	kvh_hash hash;

	memcpy(&hash, words, sizeof(hash));
	return hash;
}

/* The hashes of a prompt's n chunks. */
inline std::vector<kvh_hash> prompt(uint64_t seed, uint32_t n)
{
	std::vector<kvh_hash> hashes;

	for (uint32_t i = 0; i < n; i++)
		hashes.push_back(hash_of(seed, i));
	return hashes;
}

inline unsigned char byte_of(const kvh_key &key, uint64_t position)
{
	uint64_t tag;

	memcpy(&tag, key.hash.bytes, sizeof(tag));
	tag = mix(tag ^ (uint64_t{key.rank} << 32) ^ key.group);
	return static_cast<unsigned char>(mix(tag + position / 8) >> position % 8 * 8);
}

/* ---- pool --------------------------------------------------------------- */

class Pool
{
      public:
	Pool(const Engine &engine, const Layout &layout, kvh_space_t space, uint32_t rank = 0,
	     uint64_t seed = 1, uint64_t shift = 0, int device = -1)
	    : layout(layout), space(space), rank(rank), device(device),
	      memory(layout.allocs, shift, seed), order_(layout.groups[0].n_pages)
	{
		std::iota(order_.begin(), order_.end(), 0);
		std::shuffle(order_.begin(), order_.end(), layouts::Rng(seed));
		EXPECT_EQ(0, add(engine.get()));
	}
	/* Not registered: add does that. */
	Pool(const Layout &layout, kvh_space_t space, int device)
	    : layout(layout), space(space), rank(0), device(device),
	      memory(layout.allocs, 0, 1), order_(layout.groups[0].n_pages)
	{
		std::iota(order_.begin(), order_.end(), 0);
	}
	kvh_key key(uint32_t group, const kvh_hash &hash) const
	{
		const bool any = layout.groups[group].fields.replicated != 0;

		return {hash, space, any ? KVH_RANK_ANY : rank, group};
	}
	uint32_t pages_a_chunk(uint32_t group) const
	{
		return layouts::pages_of_chunk(layout.groups[group], layout.chunk_tokens);
	}
	/* Pages that nobody has so far; of any group, they may share memory. */
	Pages take(uint32_t group)
	{
		const uint32_t n = pages_a_chunk(group);
		Pages pages;

		EXPECT_LE(next_ + n, order_.size());
		for (uint32_t i = 0; i < n && next_ < order_.size(); i++)
			pages.push_back(order_[next_++]);
		return pages;
	}
	void give_all()
	{
		next_ = 0;
	}
	/* Writes the chunk's bytes to its pages; of one layer, or of all. */
	void fill(const kvh_key &key, const Pages &pages, uint32_t layer = KVH_LAYER_ALL)
	{
		const auto &g = layout.groups[key.group];

		each(key.group, pages,
		     [&](const kvh_plane &p, const layouts::Element &e, uint32_t page,
			 uint64_t position) {
			     const auto plane = static_cast<size_t>(&p - g.planes.data());

			     if (layer == KVH_LAYER_ALL || g.shapes[plane].layer == layer)
				     *memory.at(p, page, e) = byte_of(key, position);
		     });
	}
	/* The same in a copy of memory.all(): what a load has to make of it. */
	void expect(std::vector<Bytes> &copy, const kvh_key &key, const Pages &pages)
	{
		each(key.group, pages,
		     [&](const kvh_plane &p, const layouts::Element &e, uint32_t page,
			 uint64_t position) {
			     memory.in(copy, p, page, e) = byte_of(key, position);
		     });
	}
	/* Whether pages hold the chunk; of one layer, or of all. */
	bool holds(const kvh_key &key, const Pages &pages, uint32_t layer = KVH_LAYER_ALL)
	{
		const auto &g = layout.groups[key.group];
		bool same = true;

		each(key.group, pages,
		     [&](const kvh_plane &p, const layouts::Element &e, uint32_t page,
			 uint64_t position) {
			     const auto plane = static_cast<size_t>(&p - g.planes.data());

			     if (layer == KVH_LAYER_ALL || g.shapes[plane].layer == layer)
				     same &= *memory.at(p, page, e) == byte_of(key, position);
		     });
		return same;
	}
	int add(kvh_engine *engine)
	{
		std::vector<kvh_plane> planes;
		std::vector<uint32_t> n_pages;
		kvh_pool_desc desc;

		for (const auto &g : layout.groups) {
			planes.insert(planes.end(), g.planes.begin(), g.planes.end());
			n_pages.push_back(g.n_pages);
		}
		kvh_pool_desc_init(&desc, sizeof(desc));
		desc.space = space;
		desc.rank = rank;
		desc.n_allocs = memory.n();
		desc.allocs = memory.allocs().data();
		desc.n_planes = static_cast<uint32_t>(planes.size());
		desc.planes = planes.data();
		desc.group_pages = n_pages.data();
		if (device >= 0)
			memcpy(desc.device_uuid, engine->devices.list[device].info.uuid,
			       sizeof(desc.device_uuid));
		return kvh_pool_register(engine, &desc, &id);
	}

	const Layout layout;
	const kvh_space_t space;
	const uint32_t rank;
	const int device; /* its index; -1: it names none */
	layouts::Memory memory;
	kvh_pool_t id = KVH_NONE;

      private:
	/* fn(plane, element, page of the pool, position in the payload) */
	template <typename Fn>
	void each(uint32_t group, const Pages &pages, Fn fn)
	{
		const auto &g = layout.groups[group];

		for (size_t plane = 0; plane < g.planes.size(); plane++)
			for (uint32_t i = 0; i < pages.size(); i++)
				if (pages[i] != KVH_PAGE_NONE)
					layouts::each_byte(
						g, plane, i, [&](const layouts::Element &e) {
							fn(g.planes[plane], e, pages[i],
							   layouts::position(
								   g, layout.chunk_tokens, 0,
								   plane, e));
						});
	}

	Pages order_;
	size_t next_ = 0;
};

} // namespace enginetest

#endif
