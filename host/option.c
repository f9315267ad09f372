/* SPDX-License-Identifier: Apache-2.0 */
/*
 * option.c - text to value and back, and the checks of all options together.
 * Pure; any thread.
 */
#include "host/option.h"

#include "host/change.h"
#include "host/clock.h"
#include "host/nearest.h"
#include "l2/conf.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define L1_GRAIN (UINT64_C(2) << 20) /* arena.h */

static int refuse(struct kvh_why *why, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static int refuse(struct kvh_why *why, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(why->text, sizeof(why->text), fmt, ap);
	va_end(ap);
	return -EINVAL;
}

/* ---- find ------------------------------------------------------------- */

const struct kvh_option *kvh_option_find(const char *name)
{
	for (const struct kvh_option *o = kvh_options; o->name != NULL; o++)
		if (strcmp(o->name, name) == 0)
			return o;
	return NULL;
}

const char *kvh_option_nearest(const char *name)
{
	struct kvh_nearest nearest = {name, NULL, 0};

	for (const struct kvh_option *o = kvh_options; o->name != NULL; o++)
		kvh_nearest_try(&nearest, o->name);
	return nearest.best;
}

/* ---- value to text ---------------------------------------------------- */

static void format_scaled(uint64_t value, const uint64_t *scales, const char *const *units,
			  char *text, size_t size)
{
	size_t i = 0;

	/* The largest unit of which it is a multiple. */
	while (units[i + 1] != NULL && (value == 0 || value % scales[i] != 0))
		i++;
	(void)snprintf(text, size, "%" PRIu64 "%s", value / scales[i], units[i]);
}

void kvh_format_size(uint64_t bytes, char *text, size_t size)
{
	static const uint64_t scales[] = {UINT64_C(1) << 40, 1 << 30, 1 << 20, 1 << 10, 1};
	static const char *const units[] = {"T", "G", "M", "K", "", NULL};

	format_scaled(bytes, scales, units, text, size);
}

void kvh_format_duration(uint64_t ns, char *text, size_t size)
{
	static const uint64_t scales[] = {KVH_NS_PER_S, KVH_NS_PER_MS, 1000, 1};
	static const char *const units[] = {"s", "ms", "us", "ns", NULL};

	format_scaled(ns, scales, units, text, size);
}

static void format_number(const struct kvh_option *o, uint64_t number, char *text, size_t size)
{
	switch (o->type) {
	case KVH_OPTION_BYTES: kvh_format_size(number, text, size); return;
	case KVH_OPTION_DURATION: kvh_format_duration(number, text, size); return;
	case KVH_OPTION_BOOL:
		(void)snprintf(text, size, "%s", number != 0 ? "yes" : "no");
		return;
	case KVH_OPTION_I32:
		(void)snprintf(text, size, "%" PRId32, (int32_t)(uint32_t)number);
		return;
	case KVH_OPTION_U32:
	case KVH_OPTION_PERCENT:
	case KVH_OPTION_CHOICE:
	case KVH_OPTION_TEXT:
	case KVH_OPTION_SPECS: break;
	}
	(void)snprintf(text, size, "%" PRIu64, number);
}

static const void *field_of(const struct kvh_option *o, const struct kvh_engine_opts *opts)
{
	return (const char *)opts + o->offset;
}

static bool is_text(const struct kvh_option *o)
{
	return o->type == KVH_OPTION_CHOICE || o->type == KVH_OPTION_TEXT;
}

static bool is_wide(const struct kvh_option *o)
{
	return o->type == KVH_OPTION_BYTES || o->type == KVH_OPTION_DURATION;
}

static uint64_t number_of(const struct kvh_option *o, const struct kvh_engine_opts *opts)
{
	return is_wide(o) ? *(const uint64_t *)field_of(o, opts)
			  : *(const uint32_t *)field_of(o, opts);
}

void kvh_option_format(const struct kvh_option *o, const struct kvh_engine_opts *opts,
		       char *text, size_t size)
{
	const char *word;

	assert(o->type != KVH_OPTION_SPECS);
	if (!is_text(o)) {
		format_number(o, number_of(o, opts), text, size);
		return;
	}
	word = *(const char *const *)field_of(o, opts);
	(void)snprintf(text, size, "%s", word != NULL ? word : "");
}

void kvh_option_default(const struct kvh_option *o, char *text, size_t size)
{
	if (o->fallback_text != NULL)
		(void)snprintf(text, size, "%s", o->fallback_text);
	else
		format_number(o, o->fallback, text, size);
}

static void join_choices(const struct kvh_option *o, char *text, size_t size)
{
	size_t used = 0;

	text[0] = '\0';
	for (size_t i = 0; o->choice(i) != NULL && used < size; i++) {
		int n = snprintf(text + used, size - used, "%s%s", i == 0 ? "" : ", ",
				 o->choice(i));

		used += n < 0 ? size : (size_t)n;
	}
}

void kvh_option_allowed(const struct kvh_option *o, char *text, size_t size)
{
	char min[32], max[32] = "";

	switch (o->type) {
	case KVH_OPTION_BOOL: (void)snprintf(text, size, "yes, no"); return;
	case KVH_OPTION_CHOICE: join_choices(o, text, size); return;
	case KVH_OPTION_I32: (void)snprintf(text, size, "-1..%" PRIu64, o->max); return;
	case KVH_OPTION_TEXT:
	case KVH_OPTION_SPECS: (void)snprintf(text, size, "%s", o->help); return;
	case KVH_OPTION_BYTES:
	case KVH_OPTION_U32:
	case KVH_OPTION_PERCENT:
	case KVH_OPTION_DURATION: break;
	}
	format_number(o, o->min, min, sizeof(min));
	if (o->max != UINT64_MAX)
		format_number(o, o->max, max, sizeof(max));
	(void)snprintf(text, size, "%s..%s", min, max);
}

/* ---- text to value ---------------------------------------------------- */

static const char *type_text(const struct kvh_option *o)
{
	switch (o->type) {
	case KVH_OPTION_BYTES: return " bytes (as 4096, 64K, 1.5G)";
	case KVH_OPTION_DURATION: return ", with a unit (ns, us, ms, s, min, h)";
	case KVH_OPTION_PERCENT: return " percent";
	case KVH_OPTION_U32:
	case KVH_OPTION_I32: return ", a whole number";
	case KVH_OPTION_BOOL:
	case KVH_OPTION_CHOICE:
	case KVH_OPTION_TEXT:
	case KVH_OPTION_SPECS: break;
	}
	return "";
}

static int not_allowed(const struct kvh_option *o, const char *text, struct kvh_why *why)
{
	char allowed[256];

	kvh_option_allowed(o, allowed, sizeof(allowed));
	return refuse(why, "is \"%.64s\", allowed: %s%s", text, allowed, type_text(o));
}

static int parse_whole(const char *text, uint64_t *number_p)
{
	if (strspn(text, "0123456789") != strlen(text))
		return -EINVAL;
	return kvh_conf_bytes(text, number_p);
}

static int parse_percent(const char *text, uint64_t *number_p)
{
	char digits[8];
	size_t len = strlen(text);

	if (len > 0 && text[len - 1] == '%')
		len--;
	if (len >= sizeof(digits))
		return -ERANGE;
	memcpy(digits, text, len);
	digits[len] = '\0';
	return parse_whole(digits, number_p);
}

static int parse_number(const struct kvh_option *o, const char *text, uint64_t *number_p)
{
	int err = -EINVAL;

	switch (o->type) {
	case KVH_OPTION_BYTES: err = kvh_conf_bytes(text, number_p); break;
	case KVH_OPTION_DURATION: err = kvh_conf_duration(text, number_p); break;
	case KVH_OPTION_PERCENT: err = parse_percent(text, number_p); break;
	case KVH_OPTION_I32:
		if (strcmp(text, "-1") == 0) {
			*number_p = UINT32_MAX;
			return 0;
		}
		err = parse_whole(text, number_p);
		break;
	case KVH_OPTION_U32: err = parse_whole(text, number_p); break;
	case KVH_OPTION_BOOL:
		*number_p = strcmp(text, "yes") == 0;
		return *number_p != 0 || strcmp(text, "no") == 0 ? 0 : -EINVAL;
	case KVH_OPTION_CHOICE:
	case KVH_OPTION_TEXT:
	case KVH_OPTION_SPECS: break;
	}
	if (err == 0 && (*number_p < o->min || *number_p > o->max))
		err = -ERANGE;
	return err;
}

static int parse_choice(const struct kvh_option *o, const char *text, const char **choice_p,
			struct kvh_why *why)
{
	struct kvh_nearest nearest = {text, NULL, 0};
	char all[256];

	for (size_t i = 0; o->choice(i) != NULL; i++) {
		if (strcmp(o->choice(i), text) == 0) {
			*choice_p = o->choice(i);
			return 0;
		}
		kvh_nearest_try(&nearest, o->choice(i));
	}
	join_choices(o, all, sizeof(all));
	return refuse(why, "'%.64s' is not known; the nearest is '%s', allowed: %s", text,
		      nearest.best, all);
}

int kvh_option_parse(const struct kvh_option *o, const char *text,
		     struct kvh_option_value *value, struct kvh_why *why)
{
	assert(o->type != KVH_OPTION_SPECS);
	if (o->type == KVH_OPTION_CHOICE)
		return parse_choice(o, text, &value->text, why);
	if (o->type == KVH_OPTION_TEXT) {
		value->text = text;
		return 0;
	}
	return parse_number(o, text, &value->number) == 0 ? 0 : not_allowed(o, text, why);
}

void kvh_option_set(const struct kvh_option *o, struct kvh_engine_opts *opts,
		    const struct kvh_option_value *value)
{
	void *field = (char *)opts + o->offset;

	assert(o->type != KVH_OPTION_SPECS);
	if (is_text(o))
		*(const char **)field = value->text;
	else if (is_wide(o))
		*(uint64_t *)field = value->number;
	else
		*(uint32_t *)field = (uint32_t)value->number;
}

/* ---- all together ----------------------------------------------------- */

static int check_number(const struct kvh_option *o, struct kvh_engine_opts *opts,
			const char *name, struct kvh_why *why)
{
	struct kvh_option_value value = {number_of(o, opts), NULL};
	char is[32], allowed[64];

	if (value.number == 0 && o->zero == KVH_ZERO_IS_DERIVED)
		return 0;
	if (value.number == 0 && o->zero == KVH_ZERO_IS_DEFAULT) {
		value.number = o->fallback;
		kvh_option_set(o, opts, &value);
	}
	if (o->type == KVH_OPTION_I32 && value.number == UINT32_MAX)
		return 0;
	if (value.number >= o->min && value.number <= o->max)
		return 0;
	format_number(o, value.number, is, sizeof(is));
	kvh_option_allowed(o, allowed, sizeof(allowed));
	return refuse(why, "%s is %s, allowed: %s%s", name, is, allowed, type_text(o));
}

static int check_one(const struct kvh_option *o, struct kvh_engine_opts *opts, bool dotted,
		     struct kvh_why *why)
{
	const char *name = dotted ? o->name : o->field;
	struct kvh_option_value value = {0};
	struct kvh_why inner;

	if (o->type == KVH_OPTION_SPECS)
		return 0;
	if (!is_text(o))
		return check_number(o, opts, name, why);
	value.text = *(const char *const *)field_of(o, opts);
	if (value.text == NULL)
		value.text = o->fallback_text;
	/* So that a choice points to the table's text, not the caller's. */
	if (kvh_option_parse(o, value.text, &value, &inner) != 0)
		return refuse(why, "%s: %s", name, inner.text);
	kvh_option_set(o, opts, &value);
	return 0;
}

static int check_watermarks(struct kvh_engine_opts *o, bool dotted, struct kvh_why *why)
{
	if (o->watermark_high_pct == 0 && o->watermark_low_pct == 0) {
		o->watermark_high_pct = 95;
		o->watermark_low_pct = 90;
	}
	if (o->watermark_low_pct > 0 && o->watermark_low_pct < o->watermark_high_pct &&
	    o->watermark_high_pct <= 100)
		return 0;
	return refuse(
		why, "%s is %" PRIu32 " and %s is %" PRIu32 ", allowed: 0 < low < high <= 100",
		dotted ? "watermark.high_pct" : "watermark_high_pct", o->watermark_high_pct,
		dotted ? "watermark.low_pct" : "watermark_low_pct", o->watermark_low_pct);
}

static int check_limits(const char *tier, uint64_t soft, uint64_t hard, bool dotted,
			struct kvh_why *why)
{
	const char *prefix = dotted ? "space." : "space_";

	if (hard == 0 || soft <= hard)
		return 0;
	return refuse(why,
		      "%s%s_soft_bytes is %" PRIu64 " and %s%s_hard_bytes is %" PRIu64
		      ", allowed: soft <= hard",
		      prefix, tier, soft, prefix, tier, hard);
}

static int check_space(const struct kvh_engine_opts *o, bool dotted, struct kvh_why *why)
{
	/* As the arena rounds it. */
	uint64_t l1 = o->l1_bytes < 2 * L1_GRAIN ? L1_GRAIN : o->l1_bytes / L1_GRAIN * L1_GRAIN;
	bool soft = o->space_l1_soft_bytes > o->space_l1_hard_bytes;
	uint64_t most = soft ? o->space_l1_soft_bytes : o->space_l1_hard_bytes;
	int err = check_limits("l1", o->space_l1_soft_bytes, o->space_l1_hard_bytes, dotted,
			       why);

	if (err == 0)
		err = check_limits("l2", o->space_l2_soft_bytes, o->space_l2_hard_bytes, dotted,
				   why);
	if (err != 0 || most <= l1)
		return err;
	return refuse(why,
		      "%s_%s_bytes is %" PRIu64 " and %s is %" PRIu64 ", allowed: at most that",
		      dotted ? "space.l1" : "space_l1", soft ? "soft" : "hard", most,
		      dotted ? "l1.bytes" : "l1_bytes", l1);
}

static int check_spec(const struct kvh_engine_opts *o, uint32_t i, struct kvh_why *why)
{
	for (uint32_t j = 0; j < i; j++) {
		if (!kvh_spec_same(o->l2[i], o->l2[j]))
			continue;
		(void)refuse(why, "L2 '%.200s' has the adapter and path of '%.200s'", o->l2[i],
			     o->l2[j]);
		return -EEXIST;
	}
	return 0;
}

static int check_specs(const struct kvh_engine_opts *o, struct kvh_why *why)
{
	int err = 0;

	if (o->n_l2 > KVH_L2_MAX || (o->n_l2 > 0 && o->l2 == NULL))
		return refuse(why, "n_l2 is %" PRIu32 ", allowed: 0..%u", o->n_l2, KVH_L2_MAX);
	for (uint32_t i = 0; i < o->n_l2; i++)
		if (o->l2[i] == NULL)
			return refuse(why, "l2[%" PRIu32 "] is NULL", i);
	for (uint32_t i = 0; i < o->n_l2 && err == 0; i++)
		err = check_spec(o, i, why);
	return err;
}

int kvh_options_check(struct kvh_engine_opts *opts, bool dotted, struct kvh_why *why)
{
	int err = 0;

	for (const struct kvh_option *o = kvh_options; o->name != NULL && err == 0; o++)
		err = check_one(o, opts, dotted, why);
	if (err == 0)
		err = check_specs(opts, why);
	if (err == 0)
		err = check_watermarks(opts, dotted, why);
	if (err == 0)
		err = check_space(opts, dotted, why);
	if (err == 0 && opts->l2_queue_bytes == 0)
		opts->l2_queue_bytes = opts->l1_bytes / 2;
	if (err == 0 && opts->prefetch_read_bytes == 0)
		opts->prefetch_read_bytes = opts->l1_bytes / 8;
	return err;
}
