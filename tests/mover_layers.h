/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_layers.h - what tests of stores by layers share: a runtime that computes a
 * pool layer by layer on its stream, and what has arrived of it.
 */
#ifndef KVH_TESTS_MOVER_LAYERS_H
#define KVH_TESTS_MOVER_LAYERS_H

#include "tests/mover_rig.h"

namespace layers
{

using namespace rig;

/* Computes a group's pool anew. The image is what it will be. */
class Runtime
{
      public:
	Runtime(Rig &rig, Group &g) : rig(rig), g(g), next(g.image.size())
	{
		fill(rig.rng, next.data(), next.size());
	}
	/* All layers in (after, layer]. */
	void compute(int64_t after, uint32_t layer)
	{
		for (uint32_t i = 0; i < g.plan->n_planes; i++) {
			uint64_t off = g.plane_offset(i), bytes = g.plane_bytes(i);
			uint32_t at = g.plan->planes[i].layer;
			struct kvh_copy copy = {static_cast<char *>(g.memory()) + off,
						&next[off], bytes};

			if (int64_t(at) <= after || at > layer)
				continue;
			EXPECT_EQ(0,
				  rig.dev->ops->copy(rig.dev, KVH_COPY_H2D, &copy, rig.stream));
			memcpy(&g.image[off], &next[off], bytes);
		}
	}
	/* What comes next on the stream is held. */
	void hold()
	{
		rig.rule(KVH_HOST_COPY, KVH_HOST_HOLD);
	}
	void wait()
	{
		EXPECT_EQ(0, rig.dev->ops->stream_wait(rig.dev, rig.stream));
	}

      private:
	Rig &rig;
	Group &g;
	Bytes next;
};

inline uint32_t last_layer(const Group &g)
{
	return g.plan->planes[g.plan->n_planes - 1].layer;
}

/* The planes of the layer, of all chunks of a part, are what the image says. */
inline bool layer_stored(Job &job, size_t p, uint32_t layer)
{
	Job::Part &part = job.parts[p];
	uint32_t ppc = part.group->pages_per_chunk();

	for (size_t i = 0; i < part.payloads.size(); i++) {
		Bytes want = part.group->gathered(&part.pages[i * ppc]);

		for (uint32_t pl = 0; pl < part.group->plan->n_planes; pl++) {
			const struct kvh_plan_plane &plane = part.group->plan->planes[pl];
			const char *at = static_cast<const char *>(part.payloads[i]);

			if (plane.layer == layer &&
			    memcmp(at + plane.payload_off, &want[plane.payload_off],
				   plane.unit_bytes * ppc))
				return false;
		}
	}
	return true;
}

inline void expect_cancelled(Job &job)
{
	EXPECT_EQ(-ECANCELED, job.move.status);
	for (auto &part : job.parts)
		for (int32_t status : part.status)
			EXPECT_EQ(-ECANCELED, status);
	EXPECT_TRUE(job.guards_intact());
}

inline Shape deep()
{
	Shape s;

	s.planes = 12;
	return s;
}

inline std::string name_of(const testing::TestParamInfo<Kind> &info)
{
	return kind_name(info.param);
}

} // namespace layers

#endif
