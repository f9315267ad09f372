/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_tile.cuh - what one thread of the pack kernels does, and how many there
 * are. Apart from the kernels so that a test can run every thread in turn on a
 * machine without a GPU.
 *
 * A team of `lanes` threads (a warp, or less where units are tiny) takes tiles
 * of TILE bytes of one unit. Numbers of units, planes and runs are divided out
 * once a tile; from access to access there are only additions and carries.
 */
#ifndef KVH_CUDA_PACK_TILE_CUH
#define KVH_CUDA_PACK_TILE_CUH

#include "cuda/pack_address.h"

/* A page's address was a number in the plan: the compiler has to be told that it
 * is not one in shared memory, or it uses accesses that find out. */
#ifdef __CUDA_ARCH__
#	define KVH_UNROLL           _Pragma("unroll")
#	define KVH_ASSUME_GLOBAL(p) __builtin_assume(__isGlobal(p))
#else
#	define KVH_UNROLL
#	define KVH_ASSUME_GLOBAL(p) ((void)(p))
#endif

enum kvh_pack_direction { KVH_PACK_GATHER, KVH_PACK_SCATTER };

constexpr uint32_t KVH_PACK_THREADS = 256; /* of a CTA */
constexpr uint32_t KVH_PACK_LOADS = 4;     /* of a thread, in flight together */
constexpr uint32_t KVH_PACK_TILE = 4096;
/* Beyond, teams take several tiles instead of having one each: bounds the CTAs
 * that find nothing to do where a few units are much larger than the rest. */
constexpr uint64_t KVH_PACK_CTAS = 65536;

/* Team number t: unit t / splits; of its tiles t % splits, + splits, .. Where the
 * CTAs are fewer than that needs, the team that took t takes t + step as well. */
struct kvh_pack_grid {
	uint64_t ctas;
	uint64_t teams;
	uint64_t step; /* teams of all CTAs */
	uint32_t splits;
	uint32_t lanes; /* power of 2, 1..32 */
};

inline int kvh_pack_grid_make(const struct kvh_pack &pack, struct kvh_pack_grid *grid)
{
	const uint64_t vectors = pack.max_unit_bytes / pack.widest;
	const uint64_t tiles = (pack.max_unit_bytes - 1) / KVH_PACK_TILE + 1;
	uint32_t lanes = 1;
	uint64_t per_cta, splits;

	while (lanes < 32 && lanes < vectors)
		lanes *= 2;
	per_cta = KVH_PACK_THREADS / lanes;
	splits = KVH_PACK_CTAS * per_cta / pack.n_units;
	if (splits > tiles)
		splits = tiles;
	if (splits == 0)
		splits = 1;
	if (pack.n_units > INT32_MAX * per_cta / splits)
		return -EINVAL; /* more CTAs than a grid may have */
	grid->lanes = lanes;
	grid->splits = static_cast<uint32_t>(splits);
	grid->teams = pack.n_units * splits;
	grid->ctas = (grid->teams - 1) / per_cta + 1;
	if (pack.ctas != 0 && grid->ctas > pack.ctas)
		grid->ctas = pack.ctas;
	grid->step = grid->ctas * per_cta;
	return 0;
}

/* A byte of a unit, as offset in the page, that moves on by a constant number
 * of bytes: so many whole rows of n_inner runs, whole runs, and bytes. Inside a
 * unit 32 bits do (KVH_UNIT_MAX), and leave registers to the data. */
struct kvh_pack_cursor {
	uint64_t page_off, page_step;
	uint64_t run_carry, row_carry; /* may be negative: wraps, as unsigned sums do */
	uint32_t off, inner;           /* in the run, in the row */
	uint32_t off_step, inner_step;
	uint32_t run_bytes, n_inner;
};

KVH_PACK_FN struct kvh_pack_cursor kvh_pack_cursor_at(const struct kvh_plan_plane &pp,
						      uint32_t at, uint32_t step)
{
	const uint32_t run_bytes = static_cast<uint32_t>(pp.run_bytes);
	const uint32_t run = at / run_bytes, run_step = step / run_bytes;
	const uint32_t row = run / pp.n_inner, row_step = run_step / pp.n_inner;
	struct kvh_pack_cursor c;

	c.run_bytes = run_bytes;
	c.n_inner = pp.n_inner;
	c.off = at - run * run_bytes;
	c.inner = run - row * pp.n_inner;
	c.page_off = row * pp.page_outer + c.inner * pp.page_inner + c.off;
	c.off_step = step - run_step * run_bytes;
	c.inner_step = run_step - row_step * pp.n_inner;
	c.page_step = row_step * pp.page_outer + c.inner_step * pp.page_inner + c.off_step;
	c.run_carry = pp.page_inner - pp.run_bytes;
	c.row_carry = pp.page_outer - pp.n_inner * pp.page_inner;
	return c;
}

KVH_PACK_FN void kvh_pack_cursor_step(struct kvh_pack_cursor *c)
{
	c->page_off += c->page_step;
	c->off += c->off_step;
	c->inner += c->inner_step;
	if (c->off >= c->run_bytes) {
		c->off -= c->run_bytes;
		c->inner++;
		c->page_off += c->run_carry;
	}
	if (c->inner >= c->n_inner) {
		c->inner -= c->n_inner;
		c->page_off += c->row_carry;
	}
}

/* This thread's share of the tile that ends at `end`, from byte `at` on. Loads
 * first, then stores: KVH_PACK_LOADS of them wait for memory together. The unit
 * is dense, so that only the page's side needs the cursor. */
template <typename Vec, int direction>
KVH_PACK_FN void kvh_pack_tile_move(const struct kvh_pack_ends &ends, uint32_t at, uint32_t end,
				    uint32_t step)
{
	struct kvh_pack_cursor c = kvh_pack_cursor_at(*ends.plane, at, step);
	Vec value[KVH_PACK_LOADS];

	for (; at < end; at += KVH_PACK_LOADS * step) {
		KVH_UNROLL
		for (uint32_t k = 0; k < KVH_PACK_LOADS; k++) {
			const uint32_t unit_off = at + k * step;
			const unsigned char *from = ends.stage + unit_off;

			if (direction == KVH_PACK_GATHER) {
				from = ends.page + c.page_off;
				kvh_pack_cursor_step(&c);
			}
			if (unit_off < end)
				value[k] = *reinterpret_cast<const Vec *>(from);
		}
		KVH_UNROLL
		for (uint32_t k = 0; k < KVH_PACK_LOADS; k++) {
			const uint32_t unit_off = at + k * step;
			unsigned char *to = ends.stage + unit_off;

			if (direction == KVH_PACK_SCATTER) {
				to = ends.page + c.page_off;
				kvh_pack_cursor_step(&c);
			}
			if (unit_off < end)
				*reinterpret_cast<Vec *>(to) = value[k];
		}
	}
}

/* How wide a unit may be accessed: its page, and where it lies in the stage, behind
 * units that may be of another width. */
KVH_PACK_FN uint32_t kvh_pack_unit_width(const struct kvh_pack_ends &ends)
{
	const uint32_t bits = ends.plane->width |
			      static_cast<uint32_t>(reinterpret_cast<uintptr_t>(ends.stage));

	return bits & -bits;
}

/* One tile of a unit, a thread's share: Vecs::of<W> is the type of an access of W
 * bytes. With width 0 the unit says which. */
template <typename Vecs, uint32_t width, int direction>
KVH_PACK_FN void kvh_pack_tile(const struct kvh_pack_ends &ends, uint32_t tile, uint32_t end,
			       uint32_t lane, uint32_t lanes)
{
	if constexpr (width != 0) {
		kvh_pack_tile_move<typename Vecs::template of<width>, direction>(
			ends, tile + lane * width, end, lanes * width);
	} else {
		switch (kvh_pack_unit_width(ends)) {
		case 16:
			kvh_pack_tile<Vecs, 16, direction>(ends, tile, end, lane, lanes);
			break;
		case 8: kvh_pack_tile<Vecs, 8, direction>(ends, tile, end, lane, lanes); break;
		case 4: kvh_pack_tile<Vecs, 4, direction>(ends, tile, end, lane, lanes); break;
		case 2: kvh_pack_tile<Vecs, 2, direction>(ends, tile, end, lane, lanes); break;
		default: kvh_pack_tile<Vecs, 1, direction>(ends, tile, end, lane, lanes);
		}
	}
}

/* The tiles of one unit that a team takes, and of these a thread's share. */
template <typename Vecs, uint32_t width, int direction>
KVH_PACK_FN void kvh_pack_team(const struct kvh_pack &pack, const struct kvh_pack_grid &grid,
			       uint64_t team, uint32_t lane)
{
	const uint64_t unit = team / grid.splits;
	struct kvh_pack_ends ends;

	if (!kvh_pack_ends_at(&pack, unit, &ends))
		return;
	KVH_ASSUME_GLOBAL(ends.page);
	const uint32_t unit_bytes = static_cast<uint32_t>(ends.plane->unit_bytes);

	for (uint32_t tile = static_cast<uint32_t>(team - unit * grid.splits) * KVH_PACK_TILE;
	     tile < unit_bytes; tile += grid.splits * KVH_PACK_TILE) {
		const uint32_t left = unit_bytes - tile;
		const uint32_t end = tile + (left < KVH_PACK_TILE ? left : KVH_PACK_TILE);

		kvh_pack_tile<Vecs, width, direction>(ends, tile, end, lane, grid.lanes);
	}
}

/* All that thread number `thread` of the grid does: at the pack's width, or with
 * width 0 at each unit's own. */
template <typename Vecs, uint32_t width, int direction>
KVH_PACK_FN void kvh_pack_thread(const struct kvh_pack &pack, const struct kvh_pack_grid &grid,
				 uint64_t thread)
{
	const uint32_t lane = static_cast<uint32_t>(thread % grid.lanes);

	for (uint64_t team = thread / grid.lanes; team < grid.teams; team += grid.step)
		kvh_pack_team<Vecs, width, direction>(pack, grid, team, lane);
}

#endif
