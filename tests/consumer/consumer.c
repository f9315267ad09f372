/* SPDX-License-Identifier: Apache-2.0 */
/* Compiled as C11 and as C++17 against the installed library: the header comes
 * first, on its own, and an engine is opened on the host device. */
#include <kvhoist.h>

#include <stdio.h>
#include <string.h>

int main(void)
{
	struct kvh_engine_opts opts;
	struct kvh_engine *engine;
	int rc;

	kvh_engine_opts_init(&opts, sizeof opts);
	opts.device = "host";
	opts.l1_bytes = 4u << 20;
	rc = kvh_engine_open(&opts, &engine);
	if (rc < 0) {
		fprintf(stderr, "kvh_engine_open: %s\n", strerror(-rc));
		return 1;
	}
	printf("kvhoist %s\n", kvh_version());
	return kvh_engine_close(engine, 0) < 0;
}
