/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spec.h - the text that names an adapter with its options, "name:PATH,option=value":
 * whether it can be one, without opening it. Names come from the adapters' `help`;
 * values are the adapter's to check. Pure; any thread.
 */
#ifndef KVH_L2_SPEC_H
#define KVH_L2_SPEC_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_l2_ops;

/* One line of a help, "name=KIND  text". */
struct kvh_l2_help {
	const char *name;
	size_t len;
	bool rest; /* KIND is SPEC: an adapter's text, which takes all that follows */
};
/* Steps to the next option: begin with *at_p = ops->help. False: no more. */
bool kvh_l2_help_next(const char **at_p, struct kvh_l2_help *help);
/* False: the adapter has no such option. */
bool kvh_l2_help_find(const struct kvh_l2_ops *ops, const char *name, size_t len,
		      struct kvh_l2_help *help);
/* The adapter's option that is nearest to the name; "" where it has none. */
void kvh_l2_help_nearest(const struct kvh_l2_ops *ops, const char *name, char *nearest,
			 size_t size);

/* The adapter of that name, or NULL and the nearest one there is. */
const struct kvh_l2_ops *kvh_l2_named(const char *name, size_t len, const char **nearest_p);

/* 0, or -EINVAL: the adapter or an option is not known; *why says which, and the
 * nearest. `size` of why: 256 and more. */
int kvh_l2_spec_check(const char *spec, char *why, size_t size);

#ifdef __cplusplus
}
#endif
#endif
