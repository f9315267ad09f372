/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.c - chooses the device by its name, and is the one file that knows
 * whether this build has CUDA. Any thread.
 */
#include "cuda/device.h"
#include "host/log.h"
#include "kvhoist.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define WANT_HOST (-1) /* beside the numbers of GPUs */
#define NAME_LEN  16u  /* of the longest name, "cuda:9999", and of some that are wrong */

#ifdef KVH_CUDA
#	define cuda_open     kvh_device_cuda_open
#	define cuda_count    kvh_device_cuda_count
#	define cuda_describe kvh_device_cuda_describe
#	define CUDA_BUILD    "cuda " KVH_CUDA_VERSION
#else
#	define CUDA_BUILD "no cuda"

static int cuda_open(int ordinal, struct kvh_device **dev_p)
{
	(void)dev_p;
	kvh_err("device \"cuda:%d\": this build has no CUDA", ordinal);
	return -ENODEV;
}

static int cuda_count(void)
{
	return -ENODEV;
}

static const char *cuda_describe(void)
{
	return "no cuda";
}
#endif

const char *kvh_device_build(void)
{
	return CUDA_BUILD;
}

const char *kvh_device_describe(void)
{
	return cuda_describe();
}

/* "0".."9999", nothing else. */
static bool parse_ordinal(const char *s, int *ordinal_p)
{
	size_t len = strlen(s);
	int n = 0;

	if (len < 1 || len > 4 || strspn(s, "0123456789") != len)
		return false;
	for (; *s != '\0'; s++)
		n = 10 * n + (*s - '0');
	*ordinal_p = n;
	return true;
}

/* "host", "cuda", "cuda:N". */
static bool parse_name(const char *name, int *want_p)
{
	*want_p = strcmp(name, "host") == 0 ? WANT_HOST : 0;
	return *want_p == WANT_HOST || strcmp(name, "cuda") == 0 ||
	       (strncmp(name, "cuda:", 5) == 0 && parse_ordinal(name + 5, want_p));
}

/* A GPU that is there but too old counts as none; one that is there and does not
 * open for another reason is an error, not silently something a hundred times
 * slower. */
static int open_auto(struct kvh_device **dev_p)
{
	int err = -ENODEV;

	if (cuda_count() > 0)
		err = cuda_open(0, dev_p);
	if (err != -ENODEV)
		return err;
	kvh_info("device \"auto\": the host (%s)", cuda_describe());
	return kvh_device_host_open(dev_p);
}

int kvh_device_open(const char *name, struct kvh_device **dev_p)
{
	int want;

	if (name == NULL || strcmp(name, "auto") == 0)
		return open_auto(dev_p);
	if (!parse_name(name, &want)) {
		kvh_err("device \"%s\": want auto, host, cuda or cuda:N", name);
		return -EINVAL;
	}
	return want == WANT_HOST ? kvh_device_host_open(dev_p) : cuda_open(want, dev_p);
}

/* ---- several ---------------------------------------------------------- */

static void close_all(struct kvh_device **devs, uint32_t n)
{
	while (n-- > 0)
		devs[n]->ops->close(devs[n]);
}

/* Is there room for it, and may it stand beside those before it? NULL, or why not. */
static const char *refuse(const int *wants, uint32_t n, uint32_t max, int want)
{
	if (n == max)
		return "too many";
	for (uint32_t i = 0; i < n; i++) {
		if ((wants[i] == WANT_HOST) != (want == WANT_HOST))
			return "the host beside GPUs";
		if (wants[i] == want && want != WANT_HOST)
			return "a GPU twice";
	}
	return NULL;
}

/* Returns how many, or -EINVAL. */
static int parse_list(const char *names, int *wants, uint32_t max)
{
	const char *at = names;
	uint32_t n = 0;

	for (;;) {
		size_t len = strcspn(at, ",");
		const char *why = "want names like host, cuda, cuda:N";
		char name[NAME_LEN];
		int want;

		(void)snprintf(name, sizeof(name), "%.*s", (int)len, at);
		if (len < sizeof(name) && parse_name(name, &want))
			why = refuse(wants, n, max, want);
		if (why != NULL) {
			kvh_err("device \"%s\": at \"%s\": %s", names, at, why);
			return -EINVAL;
		}
		wants[n++] = want;
		if (at[len] == '\0')
			return (int)n;
		at += len + 1;
	}
}

/* As with "auto", one that is too old counts as none. */
static int open_all(struct kvh_device **devs, uint32_t max)
{
	int count = cuda_count();
	uint32_t n = 0;
	int err = 0;

	for (int i = 0; i < count && n < max && err == 0; i++) {
		err = cuda_open(i, &devs[n]);
		n += err == 0;
		err = err == -ENODEV ? 0 : err;
	}
	if (err == 0 && n == 0) {
		kvh_err("device \"cuda:*\": %s", cuda_describe());
		err = -ENODEV;
	}
	if (err != 0)
		close_all(devs, n);
	return err != 0 ? err : (int)n;
}

int kvh_device_open_list(const char *names, struct kvh_device **devs, uint32_t max)
{
	int wants[KVH_DEVICES_MAX];
	int n, err = 0;

	if (names == NULL || strcmp(names, "auto") == 0) {
		err = open_auto(&devs[0]);
		return err != 0 ? err : 1;
	}
	max = max < KVH_DEVICES_MAX ? max : KVH_DEVICES_MAX;
	if (strcmp(names, "cuda:*") == 0)
		return open_all(devs, max);
	n = parse_list(names, wants, max);
	for (int i = 0; i < n && err == 0; i++) {
		err = wants[i] == WANT_HOST
			      ? kvh_device_host_open_nth((uint32_t)i, i > 0 ? devs[0] : NULL,
							 &devs[i])
			      : cuda_open(wants[i], &devs[i]);
		if (err != 0)
			close_all(devs, (uint32_t)i);
	}
	return err != 0 ? err : n;
}
