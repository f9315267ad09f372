/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sanitizers.h - which sanitizer the tests run under, gcc's or clang's.
 */
#ifndef KVH_TESTS_SANITIZERS_H
#define KVH_TESTS_SANITIZERS_H

#ifndef __has_feature
#	define __has_feature(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
constexpr bool TSAN = true, ASAN = false;
#elif defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
constexpr bool TSAN = false, ASAN = true;
#else
constexpr bool TSAN = false, ASAN = false;
#endif

/* First in a negative control that takes the order of streams away: what it lets
 * happen is a data race, which ThreadSanitizer would report, and rightly. */
#define CONTROL_IS_A_DATA_RACE() \
	if (TSAN)                \
	GTEST_SKIP() << "the control is a data race"

#endif
