/* SPDX-License-Identifier: Apache-2.0 */
/*
 * option.h - the one table of options: what kvh_engine_open checks, a file, the
 * environment and flags are read by, kvh_engine_set changes, and
 * docs/configuration.md lists. A new option is a field of kvh_engine_opts and a
 * row in option_table.c. Constant; any thread.
 */
#ifndef KVH_HOST_OPTION_H
#define KVH_HOST_OPTION_H

#include "kvhoist.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kvh_option_type {
	KVH_OPTION_BYTES,    /* uint64_t: "4096", "64K", "1.5G" */
	KVH_OPTION_U32,      /* uint32_t */
	KVH_OPTION_I32,      /* int32_t, >= -1 */
	KVH_OPTION_PERCENT,  /* uint32_t: "90" or "90%" */
	KVH_OPTION_DURATION, /* uint64_t, nanoseconds: "30s", "1.5ms" */
	KVH_OPTION_BOOL,     /* uint32_t, 0 or 1: "yes", "no" */
	KVH_OPTION_CHOICE,   /* const char *: one of choice(0), choice(1), ... */
	KVH_OPTION_TEXT,     /* const char * */
	KVH_OPTION_SPECS,    /* adapters: l2 and n_l2 of kvh_engine_opts */
};

/* What a zero in the struct means. */
enum kvh_option_zero {
	KVH_ZERO_IS_ZERO,    /* itself; kvh_engine_opts_init sets the default */
	KVH_ZERO_IS_DEFAULT, /* the default */
	KVH_ZERO_IS_DERIVED, /* what kvh_options_check derives from other options */
};

struct kvh_engine;

struct kvh_option {
	const char *name;  /* "l1.bytes" */
	const char *field; /* "l1_bytes" */
	enum kvh_option_type type;
	enum kvh_option_zero zero;
	uint32_t offset;               /* of the field */
	uint64_t min, max;             /* of numbers, inclusive; I32: min is -1 */
	uint64_t fallback;             /* the default, of numbers */
	const char *fallback_text;     /* the default of a text, or how it is derived */
	const char *(*choice)(size_t); /* NULL beyond the last */
	/* Live options only: makes the engine follow. `opts` was checked; a refusal
	 * (logged) changes nothing. Under the engine's options lock. */
	int (*apply)(struct kvh_engine *engine, const struct kvh_engine_opts *opts);
	const char *help; /* one line */
};

/* Ended by a NULL name. */
extern const struct kvh_option kvh_options[];

/* Why something was refused, for the message of the caller, who knows where it
 * was said. */
struct kvh_why {
	char text[512];
};

const struct kvh_option *kvh_option_find(const char *name);
/* The nearest name in the table. Never NULL. */
const char *kvh_option_nearest(const char *name);

/* A value that fits the option. `text`, of a CHOICE the table's own, of a TEXT
 * the argument. */
struct kvh_option_value {
	uint64_t number;
	const char *text;
};
/* Not for SPECS. -EINVAL: *why has the value and what is allowed. */
int kvh_option_parse(const struct kvh_option *option, const char *text,
		     struct kvh_option_value *value, struct kvh_why *why);
void kvh_option_set(const struct kvh_option *option, struct kvh_engine_opts *opts,
		    const struct kvh_option_value *value);
/* The value as kvh_option_parse takes it; "" where there is none. Not for SPECS. */
void kvh_option_format(const struct kvh_option *option, const struct kvh_engine_opts *opts,
		       char *text, size_t size);
/* "2M..1G", "default, buffer-only": what kvh_option_parse takes. */
void kvh_option_allowed(const struct kvh_option *option, char *text, size_t size);
/* The default as documented; "" where there is none. */
void kvh_option_default(const struct kvh_option *option, char *text, size_t size);

/* Fills in defaults, and checks every option alone and those that belong
 * together. Messages name fields, or with `dotted` options.
 * -EINVAL, -EEXIST (two specs with one adapter and path): *why says it. */
int kvh_options_check(struct kvh_engine_opts *opts, bool dotted, struct kvh_why *why);

/* "1G" for 1 << 30: the shortest exact form. "1.5ms" for 1500000. */
void kvh_format_size(uint64_t bytes, char *text, size_t size);
void kvh_format_duration(uint64_t ns, char *text, size_t size);

/* ---- what live options do: reconfigure.c ------------------------------- */

int kvh_apply_health(struct kvh_engine *engine, const struct kvh_engine_opts *opts);
int kvh_apply_watermarks(struct kvh_engine *engine, const struct kvh_engine_opts *opts);
int kvh_apply_eviction(struct kvh_engine *engine, const struct kvh_engine_opts *opts);
int kvh_apply_policy(struct kvh_engine *engine, const struct kvh_engine_opts *opts);
int kvh_apply_lease(struct kvh_engine *engine, const struct kvh_engine_opts *opts);
int kvh_apply_space_limits(struct kvh_engine *engine, const struct kvh_engine_opts *opts);
int kvh_apply_bounds(struct kvh_engine *engine, const struct kvh_engine_opts *opts);
int kvh_apply_mover(struct kvh_engine *engine, const struct kvh_engine_opts *opts);

#ifdef __cplusplus
}
#endif
#endif
