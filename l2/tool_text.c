/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tool_text.c - how kvhoist-l2 reads and writes keys, spaces, numbers and JSON, and
 * how it complains. Any thread.
 */
#include "l2/tool.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

void kvh_tool_complain(const char *fmt, ...)
{
	va_list ap;

	(void)fputs("kvhoist-l2: ", stderr);
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fputc('\n', stderr);
}

void kvh_tool_log(void *ignored, enum kvh_log_level level, const char *line)
{
	(void)ignored;
	kvh_tool_complain("%s%s", level == KVH_LOG_WARN ? "warning: " : "", line);
}

int kvh_tool_status(int err)
{
	switch (err) {
	case 0: return KVH_TOOL_OK;
	case -EBADMSG:
	case -EIO: return KVH_TOOL_DAMAGE;
	case -EBUSY: return KVH_TOOL_IN_USE;
	default: return KVH_TOOL_REFUSED;
	}
}

/* ---- numbers ---- */

double kvh_tool_rate(uint64_t bytes, uint64_t ns)
{
	return ns == 0 ? 0 : (double)bytes / (double)ns;
}

const char *kvh_tool_hex(const void *bytes, size_t n, char *text)
{
	for (size_t i = 0; i < n; i++)
		(void)snprintf(text + 2 * i, 3, "%02x", ((const uint8_t *)bytes)[i]);
	return text;
}

/* 2 * n digits at *p, which moves behind them. */
static bool take_hex(const char **p, void *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++, *p += 2) {
		unsigned value;

		if (!isxdigit((unsigned char)(*p)[0]) || !isxdigit((unsigned char)(*p)[1]) ||
		    sscanf(*p, "%2x", &value) != 1)
			return false;
		((uint8_t *)bytes)[i] = (uint8_t)value;
	}
	return true;
}

static uint64_t number_of(const uint8_t *bytes, size_t n)
{
	uint64_t value = 0;

	for (size_t i = 0; i < n; i++)
		value = value << 8 | bytes[i];
	return value;
}

/* ---- keys and spaces ---- */

const char *kvh_tool_key_text(const struct kvh_key *key, char text[KVH_TOOL_KEY_TEXT])
{
	(void)kvh_tool_hex(key->hash.bytes, sizeof(key->hash.bytes), text);
	(void)snprintf(text + 32, KVH_TOOL_KEY_TEXT - 32, "-%08" PRIx32 "-%08" PRIx32,
		       key->rank, key->group);
	return text;
}

bool kvh_tool_key_parse(const char *text, struct kvh_tool_key *key)
{
	uint8_t number[4];

	if (!take_hex(&text, key->hash.bytes, sizeof(key->hash.bytes)))
		return false;
	key->given = true;
	if (*text == '\0')
		return true;
	key->exact = true;
	if (*text++ != '-' || !take_hex(&text, number, sizeof(number)))
		return false;
	key->rank = (uint32_t)number_of(number, sizeof(number));
	if (*text++ != '-' || !take_hex(&text, number, sizeof(number)))
		return false;
	key->group = (uint32_t)number_of(number, sizeof(number));
	return *text == '\0';
}

/* An id is the number that the first 8 bytes of the digest are; it is written as one. */
bool kvh_tool_space_parse(const char *text, struct kvh_tool_space *space)
{
	size_t digits = strlen(text);

	space->given = true;
	space->exact = digits == 2 * sizeof(space->digest);
	if (space->exact)
		return take_hex(&text, space->digest, sizeof(space->digest));
	if (digits != 2 * sizeof(space->id) || !take_hex(&text, space->digest, 8))
		return false;
	space->id = number_of(space->digest, 8);
	return true;
}

bool kvh_tool_matches(const struct kvh_tool_opts *opts, const struct kvh_frame_header *header)
{
	const struct kvh_tool_space *space = &opts->space;
	const struct kvh_tool_key *key = &opts->key;

	if (space->given && space->exact &&
	    memcmp(space->digest, header->digest, sizeof(space->digest)) != 0)
		return false;
	if (space->given && !space->exact && space->id != header->key.space)
		return false;
	if (key->given && memcmp(&key->hash, &header->key.hash, sizeof(key->hash)) != 0)
		return false;
	return !key->exact ||
	       (key->rank == header->key.rank && key->group == header->key.group);
}

/* ---- JSON ---- */

void kvh_tool_put(json_t *object, const char *name, uint64_t value)
{
	(void)json_object_set_new(object, name, json_integer((json_int_t)value));
}

void kvh_tool_put_text(json_t *object, const char *name, const char *text)
{
	json_t *string = json_string(text);

	/* A path may be no UTF-8. */
	(void)json_object_set_new(object, name, string != NULL ? string : json_null());
}

int kvh_tool_json(json_t *object, int status)
{
	int rc = json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));

	json_decref(object);
	if (rc == 0 && putchar('\n') != EOF)
		return status;
	kvh_tool_complain("the JSON could not be made or written");
	return KVH_TOOL_REFUSED;
}
