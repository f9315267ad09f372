/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_or_skip.h - a fixture's device by name, in its SetUp: the test is skipped where
 * there is none, without the library's line about it.
 */
#ifndef KVH_TESTS_DEVICE_OR_SKIP_H
#define KVH_TESTS_DEVICE_OR_SKIP_H

#include "cuda/device.h"
#include "kvhoist.h"

#include <cerrno>
#include <gtest/gtest.h>

inline int device_open_quietly(const char *name, struct kvh_device **dev_p)
{
	kvh_log_set([](void *, kvh_log_level, const char *) {}, nullptr, KVH_LOG_ERROR);
	const int err = kvh_device_open(name, dev_p);

	kvh_log_set(nullptr, nullptr, KVH_LOG_WARN);
	return err;
}

/* Returns from where it stands if there is no such device. */
#define DEVICE_OR_SKIP(name, dev_p)                                                  \
	do {                                                                         \
		const int device_err = device_open_quietly(name, dev_p);             \
		if (device_err == -ENODEV)                                           \
			GTEST_SKIP() << "no CUDA device: " << kvh_device_describe(); \
		ASSERT_EQ(device_err, 0);                                            \
	} while (0)

#endif
