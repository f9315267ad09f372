// SPDX-License-Identifier: Apache-2.0
//
// prefetch_rig.h - what the tests of the prefetch controller share.
#ifndef KVH_TESTS_PREFETCH_RIG_H
#define KVH_TESTS_PREFETCH_RIG_H

#include "tests/controller_jobs.h"

extern "C" {
#include "host/controller_impl.h"
}

namespace ctl
{

using N = struct kvh_adapter_counters;
using M = struct kvh_metrics;

inline Options with(std::vector<std::string> l2, std::vector<Group> groups = {Group()})
{
	Options options;

	options.l2 = std::move(l2);
	options.groups = std::move(groups);
	return options;
}

// Until no read is out any more, nor anything to begin another.
inline void settle(Rig &rig)
{
	for (int i = 0; i < 3; i++) {
		bool idle = false;

		while (!idle) {
			rig.rounds();
			rig.on_loop(
				[&] { idle = TAILQ_EMPTY(&rig.controller->prefetcher.reads); });
		}
	}
}

// Leases with the right bytes for [0, usable), none behind.
inline void expect_prefix(Rig &rig, const Prefetch &p, uint32_t usable)
{
	EXPECT_EQ(p.usable, usable);
	EXPECT_EQ(p.leased(), p.n_ok);
	for (uint32_t chunk = 0; chunk < p.prefix.n_chunks; chunk++) {
		struct kvh_key key = rig.key(0);

		key.hash = p.prefix.hashes[chunk];
		if (chunk < usable)
			EXPECT_TRUE(rig.shows(p.lease(chunk), key)) << chunk;
		else
			EXPECT_EQ(p.lease(chunk), KVH_NONE) << chunk;
	}
}

} // namespace ctl

#endif
