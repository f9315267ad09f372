/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry.c - the adapters of this build, and how a spec finds one. Constant;
 * any thread.
 */
#include "host/log.h"
#include "l2/l2.h"
#include "l2/spec.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

extern const struct kvh_l2_ops kvh_l2_null;
extern const struct kvh_l2_ops kvh_l2_mem;
extern const struct kvh_l2_ops kvh_l2_fault;
extern const struct kvh_l2_ops kvh_l2_fs;
extern const struct kvh_l2_ops kvh_l2_nvme;

const struct kvh_l2_ops *const kvh_l2_registry[] = {
	&kvh_l2_null, &kvh_l2_mem, &kvh_l2_fault, &kvh_l2_fs, &kvh_l2_nvme, NULL,
};

static void log_unknown(const char *spec, size_t name_len, const char *nearest)
{
	char names[256] = "";
	size_t used = 0;

	for (const struct kvh_l2_ops *const *p = kvh_l2_registry; *p != NULL; p++) {
		int n = snprintf(names + used, sizeof(names) - used, " %s", (*p)->name);

		if (n < 0 || (size_t)n >= sizeof(names) - used)
			break;
		used += (size_t)n;
	}
	kvh_err("l2: no adapter \"%.*s\" in \"%s\"; the nearest is \"%s\", there are:%s",
		(int)name_len, spec, spec, nearest, names);
}

int kvh_l2_find(const char *spec, const struct kvh_l2_ops **ops_p, const char **conf_p)
{
	size_t len = strcspn(spec, ":");
	const char *nearest;
	const struct kvh_l2_ops *ops = kvh_l2_named(spec, len, &nearest);

	if (ops == NULL) {
		log_unknown(spec, len, nearest);
		return -ENOENT;
	}
	*ops_p = ops;
	*conf_p = spec[len] == ':' ? spec + len + 1 : spec + len;
	return 0;
}
