/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conf.h - the text behind an adapter's name: "PATH,option=value,option=value".
 * The path comes first and may be empty or left out: what has a "=" before any
 * "/" is an option ("./a=b" is a path). A comma in a path or text is written
 * "\,". Each option may be given once, but lists. Any thread; pure but for the log.
 */
#ifndef KVH_L2_CONF_H
#define KVH_L2_CONF_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_CONF_OPTIONS_MAX 32u

enum kvh_conf_type {
	KVH_CONF_BYTES,  /* uint64_t: "4096", "64K", "8G" (powers of 1024) */
	KVH_CONF_U32,    /* uint32_t */
	KVH_CONF_BOOL,   /* int: "0", "1", "yes", "no" */
	KVH_CONF_CHOICE, /* int: index in `choices` */
	KVH_CONF_TEXT,   /* char *: malloc'ed, the caller frees; the old value is not freed */
	KVH_CONF_REST,   /* the same, but takes all that follows, commas too: must be last */
	KVH_CONF_LIST,   /* struct kvh_conf_list: may be given up to `max` times */
};

/* `items` and each of them are malloc'ed, the caller frees. */
struct kvh_conf_list {
	char **items;
	uint32_t n;
};

struct kvh_conf_option {
	const char *name;
	enum kvh_conf_type type;
	void *value;
	uint64_t min, max;          /* BYTES, U32: inclusive; LIST: max items */
	const char *const *choices; /* CHOICE: ended by NULL */
};

/* Parses `conf`; *path_p is malloc'ed. Options end with a NULL name. Every
 * error is logged with adapter, option, value and what is allowed; -EINVAL.
 * On failure nothing is left allocated that it allocated, and no value was
 * written. At most KVH_CONF_OPTIONS_MAX options. */
int kvh_conf_parse(const char *adapter, const char *conf, char **path_p,
		   const struct kvh_conf_option *options);

/* "64K", "1.5G", "4096": bytes. -EINVAL, -ERANGE. */
int kvh_conf_bytes(const char *text, uint64_t *bytes_p);
/* "30s", "1.5ms", with a unit of ns, us, ms, s, min, h: nanoseconds. The same. */
int kvh_conf_duration(const char *text, uint64_t *ns_p);
/* Puts the working directory before a relative path that was malloc'ed, for one that
 * is looked at again and again: a process may change its directory. */
int kvh_conf_absolute(char **path_p);

#ifdef __cplusplus
}
#endif
#endif
