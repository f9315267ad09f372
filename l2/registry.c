/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry.c - the adapters of this build, and how a spec finds one. Constant;
 * any thread.
 */
#include "host/log.h"
#include "l2/l2.h"

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

static void log_unknown(const char *spec, size_t name_len)
{
	char names[256] = "";
	size_t used = 0;

	for (const struct kvh_l2_ops *const *p = kvh_l2_registry; *p != NULL; p++) {
		int n = snprintf(names + used, sizeof(names) - used, " %s", (*p)->name);

		if (n < 0 || (size_t)n >= sizeof(names) - used)
			break;
		used += (size_t)n;
	}
	kvh_err("l2: no adapter \"%.*s\" in \"%s\"; there are:%s", (int)name_len, spec, spec,
		names);
}

int kvh_l2_find(const char *spec, const struct kvh_l2_ops **ops_p, const char **conf_p)
{
	size_t len = strcspn(spec, ":");

	for (const struct kvh_l2_ops *const *p = kvh_l2_registry; *p != NULL; p++) {
		if (strlen((*p)->name) != len || strncmp((*p)->name, spec, len) != 0)
			continue;
		*ops_p = *p;
		*conf_p = spec[len] == ':' ? spec + len + 1 : spec + len;
		return 0;
	}
	log_unknown(spec, len);
	return -ENOENT;
}
