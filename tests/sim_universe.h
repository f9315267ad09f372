/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_universe.h - what the simulation's users store, and what they may be served:
 * spaces, the keys there are, bytes that follow from key and epoch, pools.
 *
 * Epochs make an erase visible. A key's bytes depend on how often it was erased
 * before it was stored; whoever asks after an erase that ends well is never served
 * older bytes. An erase that fails, or was cancelled, promises nothing.
 */
#ifndef KVH_TESTS_SIM_UNIVERSE_H
#define KVH_TESTS_SIM_UNIVERSE_H

#include "kvhoist.h"
#include "sim_world.h"

#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace sim
{

/* What the simulation was to find: the schedule ends with it. */
[[noreturn]] inline void violation(const char *format, ...)
	__attribute__((format(printf, 1, 2)));
inline void violation(const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	(void)vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	throw std::runtime_error(text);
}

using ull = unsigned long long;

inline uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 32) * UINT64_C(0xE9846AF9B1A615D);
	return x ^ x >> 29;
}

/* ---- space -------------------------------------------------------------- */

struct Group {
	uint32_t kind;
	uint32_t window_chunks; /* WINDOW */
	uint32_t planes;
	uint64_t page_bytes; /* of each plane, opaque */
	bool replicated;

	uint32_t pages_a_chunk() const
	{
		return kind == KVH_GROUP_STATE ? 1 : 2;
	}
	uint64_t payload_bytes() const
	{
		return planes * pages_a_chunk() * page_bytes;
	}
};

struct Space {
	kvh_space_t id = KVH_NONE;
	std::string name;
	std::vector<Group> groups;
	uint32_t ranks = 1, prompts = 0, chunks = 0; /* a prompt */
	/* In L1: 0 is no limit. What it had when that was looked at last. */
	uint64_t l1_hard = 0, l1_used = UINT64_MAX;

	static constexpr uint32_t PAGE_TOKENS = 4, CHUNK_TOKENS = 8;

	void open(kvh_engine *engine)
	{
		std::vector<std::vector<kvh_plane_shape>> shapes;
		std::vector<kvh_group_desc> descs;
		kvh_space_desc d;

		for (const Group &g : groups) {
			shapes.emplace_back();
			for (uint32_t p = 0; p < g.planes; p++)
				shapes.back().push_back(
					{KVH_PLANE_OPAQUE, p, 0, 0, 0, 0, g.page_bytes});
			descs.push_back({g.kind, KVH_FORMAT_NATIVE, PAGE_TOKENS,
					 g.window_chunks * CHUNK_TOKENS, g.replicated, g.planes,
					 nullptr});
		}
		for (size_t g = 0; g < descs.size(); g++)
			descs[g].planes = shapes[g].data();
		kvh_space_desc_init(&d, sizeof(d));
		d.model = name.c_str();
		d.chunk_tokens = CHUNK_TOKENS;
		d.layers = d.heads = d.head_size = 1;
		d.tp_size = ranks;
		d.pp_size = 1;
		d.n_groups = static_cast<uint32_t>(descs.size());
		d.groups = descs.data();
		int err = kvh_space_open(engine, &d, &id);
		if (err == -ENOMEM)
			err = kvh_space_open(engine, &d, &id); /* one fails at a time */
		if (err != 0)
			violation("space %s cannot be opened: %d", name.c_str(), err);
	}
	/* Pairs of prompts begin alike. */
	kvh_hash hash(uint32_t prompt, uint32_t chunk) const
	{
		const uint64_t node = chunk < chunks / 2 ? prompt / 2 : prompt + 1000;
		const uint64_t words[2] = {mix(node * 64 + chunk + 1), node * 64 + chunk};
		kvh_hash h;

		memcpy(&h, words, sizeof(h));
		return h;
	}
	kvh_key key(uint32_t prompt, uint32_t chunk, uint32_t group, uint32_t rank) const
	{
		return {hash(prompt, chunk), id, groups[group].replicated ? KVH_RANK_ANY : rank,
			group};
	}
	/* Whether a prefix of `usable` chunks needs the chunk of the group. */
	bool needs(uint32_t usable, uint32_t chunk, uint32_t group) const
	{
		const Group &g = groups[group];

		if (chunk >= usable)
			return false;
		if (g.kind == KVH_GROUP_FULL)
			return true;
		return usable - chunk <= (g.kind == KVH_GROUP_STATE ? 1 : g.window_chunks);
	}
	/* The definition of kvh_lookup, word by word: the largest L that has all it needs. */
	template <typename Has>
	uint32_t usable(uint32_t n_chunks, Has has) const
	{
		for (uint32_t l = n_chunks; l > 0; l--)
			if (all_of(l, has))
				return l;
		return 0;
	}

      private:
	template <typename Has>
	bool all_of(uint32_t l, Has has) const
	{
		for (uint32_t c = 0; c < l; c++)
			for (uint32_t g = 0; g < groups.size(); g++)
				for (uint32_t r = 0; r < (groups[g].replicated ? 1 : ranks);
				     r++)
					if (needs(l, c, g) && !has(c, g, r))
						return false;
		return true;
	}
};

/* ---- keys ---------------------------------------------------------------- */

struct KeyLess {
	bool operator()(const kvh_key &a, const kvh_key &b) const
	{
		return memcmp(&a, &b, sizeof(a)) < 0;
	}
};
static_assert(sizeof(kvh_key) == 32, "no padding that memcmp would see");

enum class Erased : uint8_t { PENDING, WELL, FAILED };

struct KeyState {
	std::vector<Erased> erases; /* in the order of their calls */
	/* A store of this epoch ended well: the moments of its call and its end. */
	uint64_t stored_at = 0, stored_end = 0; /* 0: none did */
	uint32_t kind = 0;                      /* of its group */

	uint32_t epoch() const
	{
		return static_cast<uint32_t>(erases.size());
	}
	uint32_t erase()
	{
		erases.push_back(Erased::PENDING);
		forget();
		return epoch();
	}
	/* Where it was is not where it has to be. */
	void forget()
	{
		stored_at = stored_end = 0;
	}
	void erase_ended(uint32_t its_epoch, bool well)
	{
		erases[its_epoch - 1] = well ? Erased::WELL : Erased::FAILED;
	}
	/* The oldest that may be served to who asked at `asked`, as far as is known. */
	uint32_t oldest(uint32_t asked) const
	{
		while (asked > 0 && erases[asked - 1] != Erased::WELL)
			asked--;
		return asked;
	}
};

/* As the trace names it: chunk of prompt (or what prompts share), group, rank. */
inline std::string name_of(const kvh_key &key)
{
	uint64_t words[2];
	char text[64];

	memcpy(words, &key.hash, sizeof(words));
	(void)snprintf(text, sizeof(text), "%llu.%llu/%u/%d", ull(words[1] / 64),
		       ull(words[1] % 64), key.group, static_cast<int>(key.rank));
	return text;
}

using Keys = std::map<kvh_key, KeyState, KeyLess>;

/* The word at position i of a chunk's payload. */
class Content
{
      public:
	Content(const kvh_key &key, uint32_t epoch)
	{
		uint64_t words[4];

		memcpy(words, &key, sizeof(words));
		tag_ = mix(words[0] ^ mix(words[1] + epoch) ^ words[2] * 3 ^ words[3] * 7) | 1;
	}
	uint64_t word(uint64_t i) const
	{
		return (tag_ + i) * UINT64_C(0x9e3779b97f4a7c15);
	}

      private:
	uint64_t tag_;
};

/* ---- pool ---------------------------------------------------------------- */

/* A runtime's pages. What no job may touch holds rubbish that nobody else knows,
 * so that a late read is stored as wrong bytes, and a late write is seen. */
class Pool
{
      public:
	Pool(const Space &space, uint32_t rank, uint32_t pages) : space(space), rank(rank)
	{
		for (const Group &g : space.groups) {
			busy_.emplace_back(pages, false);
			marks_.emplace_back(pages, 0);
			for (uint32_t p = 0; p < g.planes; p++)
				planes_.emplace_back(new uint64_t[pages * words_of(g)]);
		}
	}
	int add(kvh_engine *engine, const uint8_t device_uuid[16])
	{
		std::vector<kvh_alloc> allocs;
		std::vector<kvh_plane> planes;
		std::vector<uint32_t> n_pages;
		kvh_pool_desc d;

		for (const Group &g : space.groups) {
			n_pages.push_back(static_cast<uint32_t>(busy_[0].size()));
			for (uint32_t p = 0; p < g.planes; p++) {
				const uint64_t bytes = words_of(g) * 8;

				allocs.push_back({planes_[planes.size()].get(),
						  busy_[0].size() * bytes});
				planes.push_back({static_cast<uint32_t>(planes.size()), 0, 0,
						  bytes, 0, 0});
			}
		}
		kvh_pool_desc_init(&d, sizeof(d));
		d.space = space.id;
		d.rank = rank;
		d.n_allocs = static_cast<uint32_t>(allocs.size());
		d.allocs = allocs.data();
		d.n_planes = static_cast<uint32_t>(planes.size());
		d.planes = planes.data();
		d.group_pages = n_pages.data();
		memcpy(d.device_uuid, device_uuid, sizeof(d.device_uuid));
		return kvh_pool_register(engine, &d, &id);
	}
	/* Pages for a chunk that no job has; false: there are none. */
	bool take(uint32_t group, Rng &rng, std::vector<uint32_t> *pages)
	{
		auto &busy = busy_[group];
		const size_t from = rng.below(busy.size());

		pages->clear();
		for (size_t k = 0; k < busy.size(); k++) {
			const size_t page = (from + k) % busy.size();

			if (busy[page])
				continue;
			pages->push_back(static_cast<uint32_t>(page));
			if (pages->size() == space.groups[group].pages_a_chunk())
				break;
		}
		if (pages->size() < space.groups[group].pages_a_chunk())
			return false;
		for (const uint32_t page : *pages) {
			check_rubbish(group, page);
			busy[page] = true;
		}
		return true;
	}
	/* No job may touch them any more. */
	void give(uint32_t group, const std::vector<uint32_t> &pages)
	{
		for (const uint32_t page : pages) {
			rubbish(group, page);
			busy_[group][page] = false;
		}
	}
	/* Layers in (after, layer]: a plane each. */
	void fill(uint32_t group, const std::vector<uint32_t> &pages, const Content &content,
		  int64_t after = -1, int64_t layer = INT64_MAX)
	{
		const uint64_t layer_words = pages.size() * words_of(space.groups[group]);

		each(group, pages, [&](uint64_t *words, uint64_t n, uint64_t at) {
			const auto of = static_cast<int64_t>(at / layer_words);

			for (uint64_t i = 0; i < n && of > after && of <= layer; i++)
				words[i] = content.word(at + i);
			return true;
		});
	}
	bool holds(uint32_t group, const std::vector<uint32_t> &pages, const Content &content)
	{
		return each(group, pages, [&](const uint64_t *words, uint64_t n, uint64_t at) {
			uint64_t wrong = 0;

			for (uint64_t i = 0; i < n; i++)
				wrong |= words[i] ^ content.word(at + i);
			return wrong == 0;
		});
	}
	/* Nobody wrote where nobody was to write. */
	void check_all()
	{
		for (uint32_t g = 0; g < busy_.size(); g++)
			for (uint32_t page = 0; page < busy_[g].size(); page++)
				if (!busy_[g][page])
					check_rubbish(g, page);
	}

	const Space &space;
	const uint32_t rank;
	kvh_pool_t id = KVH_NONE;
	bool open = false;
	uint32_t users = 0; /* jobs */

      private:
	static uint64_t words_of(const Group &g)
	{
		return g.page_bytes / 8;
	}
	size_t first_plane(uint32_t group) const
	{
		size_t at = 0;

		for (uint32_t g = 0; g < group; g++)
			at += space.groups[g].planes;
		return at;
	}
	/* fn(words, how many, position in the payload) until it returns false */
	template <typename Fn>
	bool each(uint32_t group, const std::vector<uint32_t> &pages, Fn fn)
	{
		const Group &g = space.groups[group];
		uint64_t at = 0;

		for (uint32_t p = 0; p < g.planes; p++) {
			uint64_t *mem = planes_[first_plane(group) + p].get();

			for (const uint32_t page : pages) {
				if (page != KVH_PAGE_NONE &&
				    !fn(mem + page * words_of(g), words_of(g), at))
					return false;
				at += words_of(g);
			}
		}
		return true;
	}
	void rubbish(uint32_t group, uint32_t page)
	{
		const uint64_t mark = mix(++last_mark_ * 1000 + page);

		marks_[group][page] = mark;
		each(group, {page}, [mark](uint64_t *words, uint64_t n, uint64_t) {
			words[0] = words[n / 2] = words[n - 1] = mark;
			return true;
		});
	}
	void check_rubbish(uint32_t group, uint32_t page)
	{
		const uint64_t mark = marks_[group][page];
		const bool intact = mark == 0 ||
				    each(group, {page},
					 [mark](const uint64_t *words, uint64_t n, uint64_t) {
						 return words[0] == mark &&
							words[n / 2] == mark &&
							words[n - 1] == mark;
					 });

		if (!intact)
			violation("page %u of group %u was written to by no job", page, group);
	}

	std::vector<std::unique_ptr<uint64_t[]>> planes_;
	std::vector<std::vector<bool>> busy_;      /* [group][page] */
	std::vector<std::vector<uint64_t>> marks_; /* 0: never written */
	uint64_t last_mark_ = 0;
};

} // namespace sim

#endif
