/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_mode.h - on what, and which way, the mover's tests move: their parameter.
 */
#ifndef KVH_TESTS_MOVER_MODE_H
#define KVH_TESTS_MOVER_MODE_H

#include "cuda/device_host.h"
#include "cuda/mover.h"

#include <gtest/gtest.h>

#include <string>

namespace rig
{

enum class Kind { HOST, STEPPED, CUDA };

inline const char *kind_name(Kind kind)
{
	return kind == Kind::HOST ? "host" : kind == Kind::STEPPED ? "stepped" : "cuda";
}

/* A device, and the way that moves go on it. */
struct Mode {
	Mode(Kind kind, enum kvh_mover_way way = KVH_MOVER_AUTO) : kind(kind), way(way)
	{
	}
	Kind kind;
	enum kvh_mover_way way;
};

inline std::string mode_text(Mode mode)
{
	return kind_name(mode.kind) +
	       std::string(mode.way == KVH_MOVER_DIRECT ? "_direct" : "");
}

inline std::string mode_name(const testing::TestParamInfo<Mode> &info)
{
	return mode_text(info.param);
}

/* For tests that hold a gather or a scatter; mover_direct_test.cc has what they
 * say of copies. */
#define NEEDS_STAGES()                                       \
	do {                                                 \
		if (GetParam().way == KVH_MOVER_DIRECT)      \
			GTEST_SKIP() << "no stages, direct"; \
	} while (0)

/* What needs no GPU, both ways. */
inline auto host_modes()
{
	return testing::Values(Mode(Kind::HOST), Mode(Kind::STEPPED),
			       Mode(Kind::HOST, KVH_MOVER_DIRECT),
			       Mode(Kind::STEPPED, KVH_MOVER_DIRECT));
}

/* Opens a device of the kind; false (and a skipped test) if there is none. */
inline bool open_device(Kind kind, struct kvh_device **dev_p)
{
	switch (kind) {
	case Kind::HOST: return kvh_device_host_open(dev_p) == 0;
	case Kind::STEPPED: return kvh_device_host_open_stepped(dev_p) == 0;
	case Kind::CUDA: {
		/* Kept, and with it the context: making one anew for each test takes minutes.
		 */
		static struct kvh_device *kept;
		static const int err = kvh_device_open("cuda", &kept);

		return err == 0 && kvh_device_open("cuda", dev_p) == 0;
	}
	}
	return false;
}

} // namespace rig

#endif
