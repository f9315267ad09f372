/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.h - what the readers of a configuration share: where a value was said,
 * and the one way in which a value is taken. One thread at a time.
 */
#ifndef KVH_HOST_CONFIG_H
#define KVH_HOST_CONFIG_H

#include "host/option.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A later one overrides an earlier one, whatever was read first. */
enum kvh_origin { KVH_FROM_DEFAULT, KVH_FROM_FILE, KVH_FROM_ENV, KVH_FROM_FLAG };

struct kvh_place {
	enum kvh_origin origin;
	uint32_t line; /* FILE */
};

/* Takes the text for the option of that name. -EINVAL: logged with the place. */
int kvh_config_take(struct kvh_config *config, struct kvh_place place, const char *name,
		    const char *text);
/* l2.adapters: begins the list of that place, and adds to it. Where a list of a
 * later origin is there, what is added is checked and dropped. */
int kvh_config_specs_begin(struct kvh_config *config, struct kvh_place place);
int kvh_config_spec(struct kvh_config *config, struct kvh_place place, const char *spec);
/* Logs "PLACE: NAME TEXT"; -EINVAL. */
int kvh_config_refuse(struct kvh_config *config, struct kvh_place place, const char *name,
		      const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* The same, of a name that is no option. */
int kvh_config_unknown(struct kvh_config *config, struct kvh_place place, const char *name);

/* ---- config_file.c ----------------------------------------------------- */

/* Takes all of a JSON file. -EINVAL: logged, each error with its line. Others: it
 * cannot be read. */
int kvh_config_read(struct kvh_config *config, const char *path);
/* A JSON array of adapters, as text. */
int kvh_config_specs_json(struct kvh_config *config, struct kvh_place place, const char *text);

#ifdef __cplusplus
}
#endif
#endif
