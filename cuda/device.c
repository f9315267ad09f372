/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.c - chooses the device by its name, and is the one file that knows
 * whether this build has CUDA. Any thread.
 */
#include "cuda/device.h"
#include "host/log.h"

#include <errno.h>
#include <string.h>

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

/* "0".."9999", nothing else; or -EINVAL. */
static int parse_ordinal(const char *s)
{
	size_t len = strlen(s);
	int n = 0;

	if (len < 1 || len > 4 || strspn(s, "0123456789") != len)
		return -EINVAL;
	for (; *s != '\0'; s++)
		n = 10 * n + (*s - '0');
	return n;
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
	int ordinal = -EINVAL;

	if (name == NULL || strcmp(name, "auto") == 0)
		return open_auto(dev_p);
	if (strcmp(name, "host") == 0)
		return kvh_device_host_open(dev_p);
	if (strcmp(name, "cuda") == 0)
		ordinal = 0;
	else if (strncmp(name, "cuda:", 5) == 0)
		ordinal = parse_ordinal(name + 5);
	if (ordinal < 0) {
		kvh_err("device \"%s\": want auto, host, cuda or cuda:N", name);
		return -EINVAL;
	}
	return cuda_open(ordinal, dev_p);
}
