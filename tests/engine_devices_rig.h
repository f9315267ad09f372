/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine_devices_rig.h - an engine with several host devices, and a user at each.
 */
#ifndef KVH_TESTS_ENGINE_DEVICES_RIG_H
#define KVH_TESTS_ENGINE_DEVICES_RIG_H

#include "engine_harness.h"

namespace enginetest
{

inline Opts on(const char *device, uint64_t l1_bytes = 8 * MIB)
{
	Opts opts;

	opts.l2 = {"mem:size=16M"};
	opts.l1_bytes = l1_bytes;
	opts.device = device;
	return opts;
}

/* A device with a pool, a queue and a stream of the user's. */
struct Side {
	Side(const Engine &engine, const Desc &desc, uint32_t index, uint32_t rank = 0)
	    : index(index), dev(engine.dev(index)),
	      pool(engine, desc.layout, engine.space(desc), rank, 1 + index, 0,
		   static_cast<int>(index)),
	      queue(engine), stream(engine, index)
	{
	}
	uint64_t count(enum kvh_host_call call) const
	{
		return kvh_host_count(dev, call);
	}

	const uint32_t index;
	kvh_device *const dev;
	Pool pool;
	Queue queue;
	Stream stream;
};

} // namespace enginetest

#endif
