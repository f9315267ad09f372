/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layouts.h - every KV layout of docs/kv-layouts.md as planes, memory for them
 * with guard bytes around, and the definition of where each byte goes: element
 * by element, from the formulas in kvhoist.h, without a plan.
 */
#ifndef KVH_TESTS_LAYOUTS_H
#define KVH_TESTS_LAYOUTS_H

#include "cuda/layout.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <vector>

namespace layouts
{

using Rng = std::mt19937_64;
using Bytes = std::vector<unsigned char>;

inline uint64_t below(Rng &rng, uint64_t n)
{
	return rng() % n;
}

/* KVH_PROPERTY_CASES for the long runs. */
inline uint64_t property_cases(uint64_t usual)
{
	const char *s = getenv("KVH_PROPERTY_CASES");

	return s != nullptr ? strtoull(s, nullptr, 10) : usual;
}

/* The first case's seed: a long run can be made in parts. */
inline uint64_t property_first()
{
	const char *s = getenv("KVH_PROPERTY_FIRST");

	return s != nullptr ? strtoull(s, nullptr, 10) : 0;
}

struct Group {
	kvh_group_desc fields{};
	std::vector<kvh_plane_shape> shapes;
	std::vector<kvh_plane> planes;
	uint32_t n_pages = 0;

	kvh_group_desc desc() const
	{
		kvh_group_desc d = fields;

		d.n_planes = static_cast<uint32_t>(shapes.size());
		d.planes = shapes.data();
		return d;
	}
};

struct Layout {
	std::string name;
	uint32_t chunk_tokens = 0;
	std::vector<uint64_t> allocs; /* bytes of each */
	std::vector<Group> groups;
};

inline void PrintTo(const Layout &layout, std::ostream *os)
{
	*os << layout.name;
}

/* ---- the definition ---------------------------------------------------- */

struct Element {
	uint32_t page, token, head; /* page: of the chunk */
	uint64_t byte;
};

inline uint32_t tokens_of(const Group &g, size_t plane)
{
	return g.shapes[plane].kind == KVH_PLANE_TOKENS ? g.fields.page_tokens : 1;
}

inline uint32_t heads_of(const Group &g, size_t plane)
{
	return g.shapes[plane].kind == KVH_PLANE_TOKENS ? g.shapes[plane].heads : 1;
}

inline uint64_t bytes_of(const Group &g, size_t plane)
{
	const kvh_plane_shape &s = g.shapes[plane];

	return s.kind == KVH_PLANE_TOKENS ? s.head_bytes : s.page_bytes;
}

inline uint64_t unit_of(const Group &g, size_t plane)
{
	return tokens_of(g, plane) * heads_of(g, plane) * bytes_of(g, plane);
}

inline uint32_t pages_of_chunk(const Group &g, uint32_t chunk_tokens)
{
	return g.fields.kind == KVH_GROUP_STATE ? 1 : chunk_tokens / g.fields.page_tokens;
}

/* Of the band's sequence of one chunk: planes [first, ..). */
inline uint64_t position(const Group &g, uint32_t chunk_tokens, size_t first, size_t plane,
			 const Element &e)
{
	const uint64_t T = tokens_of(g, plane), H = heads_of(g, plane), D = bytes_of(g, plane);
	const bool by_token = g.fields.format == KVH_FORMAT_PORTABLE ||
			      g.shapes[plane].order == KVH_ORDER_NHD;
	uint64_t at = 0;

	for (size_t i = first; i < plane; i++)
		at += pages_of_chunk(g, chunk_tokens) * unit_of(g, i);
	at += e.page * T * H * D;
	return at + (by_token ? e.token * H + e.head : e.head * T + e.token) * D + e.byte;
}

/* Calls fn(element) for all of one page of a chunk. */
template <typename Fn>
void each_byte(const Group &g, size_t plane, uint32_t page, Fn fn)
{
	Element e{page, 0, 0, 0};

	for (e.token = 0; e.token < tokens_of(g, plane); e.token++)
		for (e.head = 0; e.head < heads_of(g, plane); e.head++)
			for (e.byte = 0; e.byte < bytes_of(g, plane); e.byte++)
				fn(e);
}

/* ---- memory ------------------------------------------------------------ */

/* Allocations with guard bytes, `shift` bytes off a 64-byte boundary, filled
 * with bytes that follow from the seed. */
class Memory
{
      public:
	static constexpr uint64_t GUARD = 128;

	Memory(const std::vector<uint64_t> &sizes, uint64_t shift, uint64_t seed)
	    : shift_(shift)
	{
		Rng rng(seed);

		for (uint64_t size : sizes) {
			blocks_.emplace_back(size + 2 * GUARD + 64 + shift);
			for (auto &b : blocks_.back())
				b = static_cast<unsigned char>(rng());
			allocs_.push_back({start(blocks_.back()), size});
		}
	}
	const std::vector<kvh_alloc> &allocs() const
	{
		return allocs_;
	}
	uint32_t n() const
	{
		return static_cast<uint32_t>(allocs_.size());
	}
	/* All bytes, guards included, to compare afterwards. */
	std::vector<Bytes> &all()
	{
		return blocks_;
	}
	/* By the formula of struct kvh_plane. */
	unsigned char *at(const kvh_plane &p, uint32_t page, const Element &e) const
	{
		return static_cast<unsigned char *>(allocs_[p.alloc].base) + p.offset +
		       page * p.page_stride + e.token * p.token_stride +
		       e.head * p.head_stride + e.byte;
	}
	/* The same byte of a copy that all() gave before. */
	unsigned char &in(std::vector<Bytes> &copy, const kvh_plane &p, uint32_t page,
			  const Element &e) const
	{
		return copy[p.alloc]
			   [static_cast<size_t>(at(p, page, e) - blocks_[p.alloc].data())];
	}

      private:
	unsigned char *start(Bytes &block) const
	{
		const auto a = reinterpret_cast<uintptr_t>(block.data()) + GUARD;

		return reinterpret_cast<unsigned char *>(((a + 63) & ~uintptr_t{63}) + shift_);
	}

	uint64_t shift_;
	std::vector<Bytes> blocks_;
	std::vector<kvh_alloc> allocs_;
};

struct PlanFree {
	void operator()(kvh_plan *plan) const
	{
		kvh_plan_free(plan);
	}
};
using Plan = std::unique_ptr<kvh_plan, PlanFree>;

/* NULL if it was refused. */
inline Plan plan_make(const Layout &layout, const Group &g,
		      const std::vector<kvh_alloc> &allocs)
{
	const kvh_group_desc desc = g.desc();
	kvh_plan *plan = nullptr;

	if (kvh_plan_make(&desc, layout.chunk_tokens, allocs.data(),
			  static_cast<uint32_t>(allocs.size()), g.planes.data(), 0, g.n_pages,
			  &plan) != 0)
		return nullptr;
	return Plan(plan);
}

/* ---- tensors ----------------------------------------------------------- */

/* Sizes of a small model; D is bytes. */
struct Sizes {
	uint32_t L = 2, NB = 7, T = 4, H = 3, D = 32, P = 2; /* P pages a chunk */
};

/* Strides of a dense tensor whose axes are named, the fastest last: l layer, k K
 * or V, p page, t token, h head, d byte. */
struct Axes {
	std::map<char, uint64_t> stride;
	uint64_t bytes = 1;

	Axes(const std::string &order, const Sizes &s)
	{
		const std::map<char, uint64_t> size = {{'l', s.L}, {'k', 2},   {'p', s.NB},
						       {'t', s.T}, {'h', s.H}, {'d', s.D}};

		for (auto c = order.rbegin(); c != order.rend(); ++c) {
			stride[*c] = bytes;
			bytes *= size.at(*c);
		}
	}
	uint64_t of(char axis) const
	{
		const auto it = stride.find(axis);

		return it == stride.end() ? 0 : it->second;
	}
};

inline Group group_of(const Sizes &s, uint32_t kind, uint32_t format)
{
	Group g;

	g.fields.kind = kind;
	g.fields.format = format;
	g.fields.page_tokens = s.T;
	g.fields.window_tokens = kind == KVH_GROUP_WINDOW ? 2 * s.T : 0;
	g.n_pages = s.NB;
	return g;
}

inline void add_tokens(Group &g, uint32_t layer, uint32_t heads, uint32_t head_bytes,
		       uint32_t order, const kvh_plane &plane)
{
	g.shapes.push_back({KVH_PLANE_TOKENS, layer, heads, head_bytes, order, 0, 0});
	g.planes.push_back(plane);
}

inline void add_opaque(Group &g, uint32_t layer, uint64_t bytes, uint32_t alloc,
		       uint64_t offset, uint64_t stride)
{
	g.shapes.push_back({KVH_PLANE_OPAQUE, layer, 0, 0, 0, 0, bytes});
	g.planes.push_back({alloc, 0, offset, stride, 0, 0});
}

/* K and V of every layer, in dense tensors of the given axes. One tensor holds
 * the layers and the K and V that are among its axes. */
inline Layout dense(const std::string &name, const std::string &order, const Sizes &s,
		    uint32_t format)
{
	const Axes axes(order, s);
	const bool by_layer = axes.of('l') == 0, by_kv = axes.of('k') == 0;
	Layout layout{name, s.T * s.P, {}, {group_of(s, KVH_GROUP_FULL, format)}};

	for (uint32_t l = 0; l < s.L; l++) {
		for (uint32_t k = 0; k < 2; k++) {
			if ((l == 0 || by_layer) && (k == 0 || by_kv))
				layout.allocs.push_back(axes.bytes);
			add_tokens(layout.groups[0], l, s.H, s.D,
				   order.find('t') < order.find('h') ? KVH_ORDER_NHD
								     : KVH_ORDER_HND,
				   {static_cast<uint32_t>(layout.allocs.size() - 1), 0,
				    l * axes.of('l') + k * axes.of('k'), axes.of('p'),
				    axes.of('t'), axes.of('h')});
		}
	}
	return layout;
}

/* [NB, T, H, 2D] as one plane a layer. */
inline Layout fused_one_plane(const Sizes &s, uint32_t format)
{
	Layout layout{"fused_one_plane", s.T * s.P, {}, {group_of(s, KVH_GROUP_FULL, format)}};
	const uint64_t D2 = 2 * s.D;

	for (uint32_t l = 0; l < s.L; l++) {
		layout.allocs.push_back(s.NB * s.T * s.H * D2);
		add_tokens(layout.groups[0], l, s.H, 2 * s.D, KVH_ORDER_NHD,
			   {l, 0, 0, s.T * s.H * D2, s.H * D2, D2});
	}
	return layout;
}

/* [NB, 2, T, H, D]: one tensor for a layer of each group, pages shared out. */
inline Layout shared_by_groups(const Sizes &s, uint32_t format)
{
	Layout layout = dense("shared_by_groups", "pkthd", s, format);
	Group window = layout.groups[0];

	window.fields.kind = KVH_GROUP_WINDOW;
	window.fields.window_tokens = 2 * s.T;
	for (auto &shape : window.shapes)
		shape.layer += s.L;
	layout.groups.push_back(window);
	return layout;
}

/* [NB, T, latent], pages `pad` bytes apart. */
inline Layout mla(const std::string &name, uint32_t latent, uint64_t pad, const Sizes &s,
		  uint32_t format)
{
	Layout layout{name, s.T * s.P, {}, {group_of(s, KVH_GROUP_FULL, format)}};
	const uint64_t page = s.T * uint64_t{latent} + pad;

	layout.groups[0].fields.replicated = 1;
	for (uint32_t l = 0; l < s.L; l++) {
		layout.allocs.push_back(s.NB * page);
		add_tokens(layout.groups[0], l, 1, latent, KVH_ORDER_NHD,
			   {l, 0, 0, page, latent, 0});
	}
	return layout;
}

/* Values [NB, 2, T, H, D] and their scales [NB, 2, T, H, 4] apart. */
inline Layout scales_apart(const Sizes &s, uint32_t format)
{
	const uint64_t values = s.T * s.H * uint64_t{s.D}, scales = s.T * s.H * uint64_t{4};
	Layout layout{"scales_apart", s.T * s.P, {}, {group_of(s, KVH_GROUP_FULL, format)}};

	for (uint32_t l = 0; l < s.L; l++) {
		layout.allocs.push_back(s.NB * 2 * values);
		layout.allocs.push_back(s.NB * 2 * scales);
		for (uint32_t k = 0; k < 2; k++) {
			add_tokens(
				layout.groups[0], l, s.H, s.D, KVH_ORDER_NHD,
				{2 * l, 0, k * values, 2 * values, s.H * uint64_t{s.D}, s.D});
			add_tokens(
				layout.groups[0], l, s.H, 4, KVH_ORDER_NHD,
				{2 * l + 1, 0, k * scales, 2 * scales, s.H * uint64_t{4}, 4});
		}
	}
	return layout;
}

/* A page: T*D bytes of values, then T*4 bytes of scales. */
inline Layout scales_in_page(const Sizes &s, uint32_t format)
{
	const uint64_t page = s.T * (uint64_t{s.D} + 4);
	Layout layout{"scales_in_page", s.T * s.P, {}, {group_of(s, KVH_GROUP_FULL, format)}};

	for (uint32_t l = 0; l < s.L; l++) {
		layout.allocs.push_back(s.NB * page);
		add_tokens(layout.groups[0], l, 1, s.D, KVH_ORDER_NHD, {l, 0, 0, page, s.D, 0});
		add_tokens(layout.groups[0], l, 1, 4, KVH_ORDER_NHD,
			   {l, 0, s.T * uint64_t{s.D}, page, 4, 0});
	}
	return layout;
}

/* K [NB, H, D/x, T, x] and V [NB, H, D, T]: the parts of a head are heads. */
inline Layout split_heads(const Sizes &s, uint32_t format)
{
	const uint32_t x = s.D % 16 == 0 ? 16 : 1, e = s.D % 2 == 0 ? 2 : 1;
	const uint64_t page = s.T * s.H * uint64_t{s.D};
	Layout layout{"split_heads", s.T * s.P, {}, {group_of(s, KVH_GROUP_FULL, format)}};

	for (uint32_t l = 0; l < s.L; l++) {
		layout.allocs.insert(layout.allocs.end(), 2, s.NB * page);
		add_tokens(layout.groups[0], l, s.H * s.D / x, x, KVH_ORDER_HND,
			   {2 * l, 0, 0, page, x, uint64_t{s.T} * x});
		add_tokens(layout.groups[0], l, s.H * s.D / e, e, KVH_ORDER_HND,
			   {2 * l + 1, 0, 0, page, e, uint64_t{s.T} * e});
	}
	return layout;
}

/* An attention group, and state in the same pages: convolution and recurrence
 * one behind the other, the rest of a page unused. */
inline Layout hybrid_state(const Sizes &s, uint32_t format)
{
	Layout layout = dense("hybrid_state", "pkthd", s, format);
	Group state = group_of(s, KVH_GROUP_STATE, format);
	const uint64_t page = 2 * s.T * s.H * uint64_t{s.D};

	state.fields.page_tokens = 0; /* says nothing in a state group */
	for (uint32_t l = 0; l < s.L; l++) {
		add_opaque(state, s.L + l, page / 8 + 1, l, 0, page);
		add_opaque(state, s.L + l, page / 2 + 3, l, page / 8 + 1, page);
	}
	layout.groups.push_back(state);
	return layout;
}

inline Layout opaque_pages(const Sizes &s, uint32_t format)
{
	Layout layout{"opaque_pages", s.T * s.P, {}, {group_of(s, KVH_GROUP_FULL, format)}};
	const uint64_t page = s.T * (uint64_t{s.D} + 4);

	layout.allocs.push_back(s.NB * (page + 64));
	add_opaque(layout.groups[0], 0, page, 0, 0, page + 64);
	return layout;
}

/* Those that hold the same K and V: in portable format any loads any. */
inline std::vector<Layout> kv_layouts(const Sizes &s, uint32_t format)
{
	Sizes one = s;

	one.P = s.P * s.T;
	one.NB = s.NB * s.T;
	one.T = 1;
	return {
		dense("apart_nhd", "pthd", s, format),
		dense("apart_hnd", "phtd", s, format),
		dense("kv_first_nhd", "kpthd", s, format),
		dense("kv_first_hnd", "kphtd", s, format),
		dense("page_first_nhd", "pkthd", s, format),
		dense("page_first_hnd", "pkhtd", s, format),
		dense("one_tensor_layer_first", "lkpthd", s, format),
		dense("one_tensor_page_first", "plkthd", s, format),
		dense("trtllm_block_first", "plkhtd", s, format),
		dense("fused_nhd", "pthkd", s, format),
		dense("fused_hnd", "phtkd", s, format),
		dense("fused_heads_nhd", "ptkhd", s, format),
		dense("sglang_token_major", "kpthd", one, format),
		dense("sglang_token_first", "ptlkhd", s, format),
		dense("sglang_token_first_1", "ptlkhd", one, format),
		dense("head_first", "hptd", s, format),
	};
}

inline std::vector<Layout> all_layouts(const Sizes &s, uint32_t format)
{
	std::vector<Layout> all = kv_layouts(s, format);
	const std::vector<Layout> more = {
		fused_one_plane(s, format),
		shared_by_groups(s, format),
		mla("mla", 9 * s.D, 0, s, format), /* 512 + 64 elements are 9 x 64 */
		mla("mla_padded", 9 * s.D, 64, s, format),
		mla("mla_656", 656, 0, s, format),
		scales_apart(s, format),
		scales_in_page(s, format),
		split_heads(s, format),
		hybrid_state(s, format),
		opaque_pages(s, format),
	};

	all.insert(all.end(), more.begin(), more.end());
	for (auto &layout : all)
		layout.name += format == KVH_FORMAT_NATIVE ? "_native" : "_portable";
	return all;
}

} // namespace layouts

#endif
