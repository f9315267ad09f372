/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault_script.c - the language of the fault adapter:
 *
 *   script := [ rule { ";" rule } ]
 *   rule   := op [ "@" nth ] [ "x" ( count | "*" ) ] ":" action [ "=" arg ]
 *   op     := "put" | "get" | "probe" | "delete" | "clear" | "flush" | "any"
 *
 * Spaces between the parts are ignored. Pure; any thread.
 */
#include "l2/fault.h"

#include "host/log.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct word {
	const char *text;
	uint64_t value;
};

static const struct word ops[] = {
	{"put", KVH_L2_PUT},       {"get", KVH_L2_GET},
	{"probe", KVH_L2_PROBE},   {"delete", KVH_L2_DELETE},
	{"clear", KVH_L2_CLEAR},   {"flush", KVH_L2_FLUSH},
	{"any", KVH_FAULT_ANY_OP}, {NULL, 0},
};

static const struct word errors[] = {
	{"EIO", EIO},
	{"ENOENT", ENOENT},
	{"ENOSPC", ENOSPC},
	{"EDQUOT", EDQUOT},
	{"ENOMEM", ENOMEM},
	{"EROFS", EROFS},
	{"EACCES", EACCES},
	{"ESTALE", ESTALE},
	{"ETIMEDOUT", ETIMEDOUT},
	{"EBADMSG", EBADMSG},
	{"ECANCELED", ECANCELED},
	{"EINVAL", EINVAL},
	{NULL, 0},
};

static const struct word corrupt_words[] = {{"header", 0}, {"payload", 4096}, {NULL, 0}};
static const struct word short_words[] = {{"lie", 1}, {NULL, 0}};
static const struct word hang_words[] = {{"hard", 1}, {NULL, 0}};

/* What may stand behind an action's "=". */
static const struct action {
	const char *name;
	enum kvh_fault_action action;
	bool needs_arg;
	uint64_t arg;             /* without one */
	const struct word *words; /* NULL: none */
	uint64_t min, max;        /* of a number; max 0: none */
} actions[] = {
	{"delay", KVH_FAULT_DELAY, true, 0, NULL, 0, 86400000},
	{"fail", KVH_FAULT_FAIL, false, EIO, errors, 1, 4095},
	{"corrupt", KVH_FAULT_CORRUPT, false, 4096, corrupt_words, 0, UINT64_MAX},
	{"short", KVH_FAULT_SHORT, false, 0, short_words, 0, 0},
	{"reorder", KVH_FAULT_REORDER, true, 0, NULL, 2, 65536},
	{"hang", KVH_FAULT_HANG, false, 0, hang_words, 0, 0},
	{"die", KVH_FAULT_DIE, false, 0, NULL, 0, 0},
	{"mute", KVH_FAULT_MUTE, false, 0, NULL, 0, 0},
};

static void skip_spaces(const char **p)
{
	while (isspace((unsigned char)**p))
		(*p)++;
}

/* The letters at *p if they are `words`' [i].text. */
static bool take_word(const char **p, const struct word *words, uint64_t *value_p)
{
	size_t len = 0;

	skip_spaces(p);
	while (isalnum((unsigned char)(*p)[len]))
		len++;
	for (; words != NULL && words->text != NULL; words++) {
		if (strlen(words->text) == len && strncmp(words->text, *p, len) == 0) {
			*value_p = words->value;
			*p += len;
			return true;
		}
	}
	return false;
}

static bool take_number(const char **p, uint64_t min, uint64_t max, uint64_t *value_p)
{
	char *end;
	uint64_t value;

	skip_spaces(p);
	if (!isdigit((unsigned char)**p))
		return false;
	errno = 0;
	value = strtoull(*p, &end, 10);
	if (errno != 0 || value < min || value > max)
		return false;
	*value_p = value;
	*p = end;
	return true;
}

static bool take_char(const char **p, char c)
{
	skip_spaces(p);
	if (**p != c)
		return false;
	(*p)++;
	return true;
}

static const struct action *take_action(const char **p)
{
	size_t len = 0;

	skip_spaces(p);
	while (isalpha((unsigned char)(*p)[len]))
		len++;
	for (size_t i = 0; i < sizeof(actions) / sizeof(actions[0]); i++) {
		if (strlen(actions[i].name) == len && strncmp(actions[i].name, *p, len) == 0) {
			*p += len;
			return &actions[i];
		}
	}
	return NULL;
}

static bool take_arg(const char **p, const struct action *action, uint64_t *arg_p)
{
	*arg_p = action->arg;
	if (!take_char(p, '='))
		return !action->needs_arg;
	if (take_word(p, action->words, arg_p))
		return true;
	return action->max != 0 && take_number(p, action->min, action->max, arg_p);
}

/* NULL, or what is wrong at *p. */
static const char *take_rule(const char **p, struct kvh_fault_rule *rule)
{
	const struct action *action;
	uint64_t op;

	*rule = (struct kvh_fault_rule){.nth = 1, .count = 1};
	if (!take_word(p, ops, &op))
		return "put, get, probe, delete or any";
	rule->op = (uint32_t)op;
	if (take_char(p, '@') && !take_number(p, 1, UINT64_MAX, &rule->nth))
		return "a number from 1 after @";
	if (take_char(p, 'x')) {
		if (take_char(p, '*'))
			rule->count = UINT64_MAX;
		else if (!take_number(p, 1, UINT64_MAX, &rule->count))
			return "a number from 1, or *, after x";
	}
	if (!take_char(p, ':'))
		return "\":\" and an action";
	action = take_action(p);
	if (action == NULL)
		return "delay, fail, corrupt, short, reorder, hang, die or mute";
	rule->action = action->action;
	if (!take_arg(p, action, &rule->arg))
		return "an argument that the action takes";
	skip_spaces(p);
	return **p == '\0' || **p == ';' ? NULL : "\";\" or the end";
}

int kvh_fault_parse(const char *text, struct kvh_fault_rule **rules_p, uint32_t *n_p)
{
	struct kvh_fault_rule *rules;
	uint32_t n = 0;
	size_t room = 1;

	for (const char *p = text; *p != '\0'; p++)
		room += *p == ';';
	rules = calloc(room, sizeof(*rules));
	if (rules == NULL)
		return -ENOMEM;
	for (const char *p = text; skip_spaces(&p), *p != '\0';) {
		const char *wanted;

		if (take_char(&p, ';'))
			continue;
		assert(n < room);
		wanted = take_rule(&p, &rules[n++]);
		if (wanted != NULL) {
			kvh_err("fault: script \"%s\": at \"%s\" is to be %s", text, p, wanted);
			free(rules);
			return -EINVAL;
		}
	}
	*rules_p = rules;
	*n_p = n;
	return 0;
}
