/* SPDX-License-Identifier: Apache-2.0 */
/*
 * size_text.h - sizes as the programs print them. Any thread.
 */
#ifndef KVH_L2_SIZE_TEXT_H
#define KVH_L2_SIZE_TEXT_H

#include <stdint.h>
#include <stdio.h>

/* "1.50 GiB": rounded, for people; returns text. */
static inline const char *kvh_size_text(uint64_t bytes, char text[24])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double value = (double)bytes;
	size_t unit = 0;

	while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1024;
		unit++;
	}
	(void)snprintf(text, 24, unit == 0 ? "%.0f %s" : "%.2f %s", value, units[unit]);
	return text;
}

#endif
