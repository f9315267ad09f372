/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lookout.h - says when a device has finished what an engine gave it. It stands between
 * the engine and the device's table: behind each copy and scatter it records an event
 * of its own on the same stream, and a thread of its own waits for the last one, as a
 * driver waits: CUDA's spins.
 *
 * That thread learns of the end late itself, by a wait across streams and its own
 * return: some microseconds on a GPU. What is measured from there is short by these.
 */
#ifndef KVH_BENCH_LOOKOUT_H
#define KVH_BENCH_LOOKOUT_H

#include "cuda/device.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvh_lookout;

/* From now on, until stop; nothing may be in flight at either. -ENOMEM, -EIO */
int kvh_lookout_open(struct kvh_device *dev, struct kvh_lookout **lookout_p);
void kvh_lookout_stop(struct kvh_lookout *lookout);
/* Of a stopped one, when the engine has closed its device: until then one of its threads
 * may be inside the table. NULL is fine. */
void kvh_lookout_free(struct kvh_lookout *lookout);

/* Whether notices are lost on their way: then whoever waits has to look. */
void kvh_lookout_mute(struct kvh_lookout *lookout, bool mute);
/* Waits until all that was enqueued has finished, and says when (kvh_now_ns) the last
 * of it had; 0: the device has failed. */
uint64_t kvh_lookout_finished(struct kvh_lookout *lookout);

#ifdef __cplusplus
}
#endif
#endif
