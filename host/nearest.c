/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nearest.c - edit distance with swaps of neighbours ("optimal string
 * alignment"), three rows of the table at a time. Any thread.
 */
#include "host/nearest.h"

#include <ctype.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define LONGEST 63u /* bytes that are looked at */

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static bool same(char a, char b)
{
	return tolower((unsigned char)a) == tolower((unsigned char)b);
}

uint32_t kvh_edit_distance(const char *a, const char *b)
{
	uint32_t rows[3][LONGEST + 1];
	size_t la = strnlen(a, LONGEST), lb = strnlen(b, LONGEST);

	for (size_t j = 0; j <= lb; j++)
		rows[0][j] = (uint32_t)j;
	for (size_t i = 1; i <= la; i++) {
		uint32_t *row = rows[i % 3], *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];

		row[0] = (uint32_t)i;
		for (size_t j = 1; j <= lb; j++) {
			row[j] = least(least(up[j], row[j - 1]) + 1,
				       up[j - 1] + !same(a[i - 1], b[j - 1]));
			if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) &&
			    same(a[i - 2], b[j - 1]))
				row[j] = least(row[j], up2[j - 2] + 1);
		}
	}
	return rows[la % 3][lb];
}

void kvh_nearest_try(struct kvh_nearest *nearest, const char *name)
{
	uint32_t distance = kvh_edit_distance(nearest->word, name);

	if (nearest->best != NULL && distance >= nearest->distance)
		return;
	nearest->best = name;
	nearest->distance = distance;
}
