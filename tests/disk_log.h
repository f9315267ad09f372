// SPDX-License-Identifier: Apache-2.0
//
// disk_log.h - what was asked of a disk, in order, and what a power cut at any moment
// may leave of it. Memory only; whoever has it locks.
//
// What a cut leaves of a write, by sectors of 512 bytes or 4 KiB:
//
//   all      it ended before a flush began that ended before the cut, or it was
//            written through (O_DSYNC) and ended before the cut
//   nothing  it had not begun
//   any      everything else: kept, lost, or torn
//
// Losing an earlier write and keeping a later one is what a disk that reorders
// leaves; each sector holds what it held before or one of the writes of it, so
// there is no image of such a disk that this model cannot make.
#ifndef KVH_TESTS_DISK_LOG_H
#define KVH_TESTS_DISK_LOG_H

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace l2test
{

// What all files hold, by name.
using Image = std::map<std::string, std::vector<uint8_t>>;

struct DiskEvent {
	enum Kind { kWrite, kZero, kResize, kFlush } kind;
	std::string file;
	uint64_t off, len; // kResize: len is the new length
	std::vector<uint8_t> data;
	bool through;        // on the medium when it ends
	uint64_t begin, end; // moments
};

class DiskLog
{
      public:
	static constexpr uint64_t kNever = UINT64_MAX;

	std::vector<DiskEvent> events;

	// `base` was there before the first event.
	Image cut(const Image &base, uint64_t at, std::mt19937_64 &random) const
	{
		const Fate fate = draw_fate(at, random);
		Image left = base;

		for (size_t i = 0; i < events.size(); i++) {
			const DiskEvent &event = events[i];

			if (event.kind == DiskEvent::kFlush || event.begin >= at)
				continue;
			if (is_durable(event, at, fate))
				apply(&left, event, 0, 0, random);
			else
				apply_some(&left, event, i, fate, random);
		}
		return left;
	}
	// What no flush holds by now, none ever will.
	void forget()
	{
		std::map<std::string, uint64_t> flushed;

		for (const DiskEvent &event : events) {
			if (event.kind == DiskEvent::kFlush)
				flushed[event.file] = std::max(flushed[event.file],
							       event.begin);
		}
		for (DiskEvent &event : events) {
			if (event.kind != DiskEvent::kFlush && !event.through &&
			    event.end > flushed[event.file])
				event.end = kNever;
		}
	}

      private:
	// How it goes with what no flush holds. One mode a cut: that all is lost but
	// one write is too rare to be found by tossing a coin for each.
	struct Fate {
		enum Mode { kKept, kLost, kSome, kOneLost, kOneKept, kTorn, kModes } mode;
		std::map<std::string, uint64_t> flushed; // the latest flush's begin
		unsigned percent;                        // of kSome and kTorn that are kept
		size_t one;                              // of the log
		uint64_t sector;
	};

	Fate draw_fate(uint64_t at, std::mt19937_64 &random) const
	{
		Fate fate;
		std::vector<size_t> open;

		for (const DiskEvent &event : events) {
			if (event.kind == DiskEvent::kFlush && event.end <= at)
				fate.flushed[event.file] = std::max(fate.flushed[event.file],
								    event.begin);
		}
		for (size_t i = 0; i < events.size(); i++) {
			if (events[i].kind != DiskEvent::kFlush && events[i].begin < at &&
			    !is_durable(events[i], at, fate))
				open.push_back(i);
		}
		fate.mode = static_cast<Fate::Mode>(random() % Fate::kModes);
		fate.percent = static_cast<unsigned>(random() % 100);
		fate.one = open.empty() ? 0 : open[random() % open.size()];
		fate.sector = random() % 2 == 0 ? 512 : 4096;
		return fate;
	}
	bool is_durable(const DiskEvent &event, uint64_t at, const Fate &fate) const
	{
		const auto flushed = fate.flushed.find(event.file);

		if (event.through && event.end <= at)
			return true;
		return flushed != fate.flushed.end() && event.end < flushed->second;
	}
	static void apply_some(Image *image, const DiskEvent &event, size_t i, const Fate &fate,
			       std::mt19937_64 &random)
	{
		const bool lucky = random() % 100 < fate.percent;
		bool keep = false;

		switch (fate.mode) {
		case Fate::kKept: keep = true; break;
		case Fate::kLost: break;
		case Fate::kSome: keep = lucky; break;
		case Fate::kOneLost: keep = i != fate.one; break;
		case Fate::kOneKept: keep = i == fate.one; break;
		case Fate::kTorn:
			if (random() % 3 == 0) {
				apply(image, event, fate.sector, 1 + random() % 3, random);
				return;
			}
			keep = lucky;
			break;
		case Fate::kModes: break;
		}
		if (keep)
			apply(image, event, 0, 0, random);
	}
	// tear 0: all of it; 1: its first sectors, 2: its last, 3: any.
	static void apply(Image *image, const DiskEvent &event, uint64_t sector, uint64_t tear,
			  std::mt19937_64 &random)
	{
		std::vector<uint8_t> &bytes = (*image)[event.file];

		if (event.kind == DiskEvent::kResize) {
			bytes.resize(event.len);
			return;
		}
		// Where the length was lost, so are the bytes behind it.
		const uint64_t size = bytes.size();
		const uint64_t end = std::min(event.off + event.len, size);
		if (event.off >= end)
			return;
		if (tear == 0)
			sector = event.len;
		const uint64_t n = (event.len + sector - 1) / sector;
		const uint64_t edge = random() % (n + 1);

		for (uint64_t s = 0; s < n; s++) {
			const uint64_t from = event.off + s * sector;
			const bool keep = tear == 0 || (tear == 1 && s < edge) ||
					  (tear == 2 && s >= edge) ||
					  (tear == 3 && random() % 2 == 0);

			if (!keep || from >= end)
				continue;
			const uint64_t len = std::min(sector, end - from);
			if (event.kind == DiskEvent::kZero)
				memset(&bytes[from], 0, len);
			else
				memcpy(&bytes[from], &event.data[from - event.off], len);
		}
	}
};

} // namespace l2test

#endif
