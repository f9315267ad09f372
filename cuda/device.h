/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h - the seam that hides the GPU, at the height of driver calls.
 *
 * Everything above it (mover, arena, engine) is the same for a GPU and for the
 * host device. Streams and events are the runtime's own types, so a stream of
 * the runtime's and one of ours are used alike; on the host device they point
 * to its own structures, and a NULL stream means "now": work on it is done
 * before the call returns.
 *
 * Calls are safe from any thread, never wait for the device unless they end in
 * _wait, and return 0 or a negative errno: -EIO, and from then on, after a
 * context error (the device is dead), -ENODEV where no device is, -ENOMEM,
 * -EBUSY for a stream under capture. None leaves an error behind in the
 * runtime's own last-error state.
 */
#ifndef KVH_CUDA_DEVICE_H
#define KVH_CUDA_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct CUstream_st;
struct CUevent_st;
struct kvh_pack;

typedef struct CUstream_st *kvh_stream;
typedef struct CUevent_st *kvh_event_mark; /* a point in a stream */

enum kvh_copy_kind { KVH_COPY_D2H, KVH_COPY_H2D, KVH_COPY_D2D };

struct kvh_copy {
	void *dst;
	const void *src;
	uint64_t bytes;
};

struct kvh_device_info {
	char name[96];  /* "host", or what the driver says */
	char label[16]; /* "cuda:2", "host:0": what the log and the user call it */
	uint8_t uuid[16];
	int numa_node;      /* -1: unknown */
	uint64_t mem_bytes; /* of the device; the host's for the host device */
	uint32_t n_sms;     /* 0: host device */
	char driver[32];    /* "13.0"; "" for the host device */
};

struct kvh_device;

enum kvh_owns {
	KVH_OWNS_NO,    /* another device's, or no device's */
	KVH_OWNS_YES,   /* allocated there */
	KVH_OWNS_MAYBE, /* no device's, but it can be reached: the host device's answer
			 * for all memory of the process */
};

/* A const table an implementation; all are required. `dev` first everywhere. */
struct kvh_device_ops {
	const char *name; /* "host", "cuda" */

	void (*close)(struct kvh_device *dev); /* all streams, events, memory returned before */
	void (*info)(struct kvh_device *dev, struct kvh_device_info *info);
	bool (*dead)(struct kvh_device *dev); /* a context error was seen */

	int (*mem_alloc)(struct kvh_device *dev, uint64_t bytes, void **mem_p);
	void (*mem_free)(struct kvh_device *dev, void *mem);
	/* enum kvh_owns of the memory at this address, or a negative errno. */
	int (*owns)(struct kvh_device *dev, const void *mem);
	/* Pinned host memory that the device reads and writes at the same address. */
	int (*host_alloc)(struct kvh_device *dev, uint64_t bytes, void **mem_p);
	void (*host_free)(struct kvh_device *dev, void *mem);
	/* Pins memory that exists, for all devices of the process (portable). Piece by
	 * piece: base and bytes as registered. Taken back through the same device; where
	 * that has died, through any other of its kind. */
	int (*host_register)(struct kvh_device *dev, void *base, uint64_t bytes);
	int (*host_unregister)(struct kvh_device *dev, void *base);

	/* priority: 0 normal, 1 high, 2 highest: the first in line where several may run.
	 * On a device with two levels 1 and 2 are the same. */
	int (*stream_create)(struct kvh_device *dev, int priority, kvh_stream *stream_p);
	void (*stream_destroy)(struct kvh_device *dev, kvh_stream stream);
	int (*stream_wait)(struct kvh_device *dev,
			   kvh_stream stream); /* host waits: tests, close */
	/* 1 under capture, 0 not, or a negative errno. */
	int (*stream_capturing)(struct kvh_device *dev, kvh_stream stream);

	int (*event_create)(struct kvh_device *dev, kvh_event_mark *event_p);
	void (*event_destroy)(struct kvh_device *dev, kvh_event_mark event);
	int (*event_record)(struct kvh_device *dev, kvh_event_mark event, kvh_stream stream);
	/* 1 everything before the last record is done (also if never recorded),
	 * 0 not yet, negative: the device has failed. */
	int (*event_query)(struct kvh_device *dev, kvh_event_mark event);
	/* The stream waits for the event's last record, the host does not. */
	int (*stream_wait_event)(struct kvh_device *dev, kvh_stream stream,
				 kvh_event_mark event);

	int (*copy)(struct kvh_device *dev, enum kvh_copy_kind kind,
		    const struct kvh_copy *copy, kvh_stream stream);
	int (*copy_2d)(struct kvh_device *dev, enum kvh_copy_kind kind, void *dst,
		       uint64_t dst_pitch, const void *src, uint64_t src_pitch, uint64_t width,
		       uint64_t height, kvh_stream stream);
	/* Independent copies, in one submission where the driver can. */
	int (*copy_batch)(struct kvh_device *dev, enum kvh_copy_kind kind,
			  const struct kvh_copy *copies, size_t n, kvh_stream stream);

	/* pack.h: pages to stage, stage to pages. *pack is copied. */
	int (*gather)(struct kvh_device *dev, const struct kvh_pack *pack, kvh_stream stream);
	int (*scatter)(struct kvh_device *dev, const struct kvh_pack *pack, kvh_stream stream);

	/* Adds 1 to the eventfd when the stream gets here. A hint: it never comes
	 * after a context error, so whoever waits also polls. */
	int (*notify)(struct kvh_device *dev, kvh_stream stream, int eventfd);
};

/* Implementations embed this first. */
struct kvh_device {
	const struct kvh_device_ops *ops;
};

/* "auto", "host", "cuda", "cuda:N"; NULL is "auto".
 * -EINVAL  another name, -ENODEV  no such GPU, or a build without CUDA */
int kvh_device_open(const char *name, struct kvh_device **dev_p);
/* Several, in their order: names separated by commas, "host" as often as it is named,
 * or "cuda:*", all GPUs that are there and new enough; "auto" alone. Returns how many.
 * -EINVAL  another name, a GPU twice, the host beside GPUs, more than `max` (or 64)
 * -ENODEV  as above, of any of them; then none is open */
int kvh_device_open_list(const char *names, struct kvh_device **devs, uint32_t max);
/* Of this build: "cuda 13.0", "no cuda". Static; touches no driver. */
const char *kvh_device_build(void);
/* Of this build and machine: "cuda 13.0: NVIDIA H100 80GB HBM3", "cuda 13.0: no
 * driver (cudaErrorInsufficientDriver)", "no cuda". Static or thread-local. */
const char *kvh_device_describe(void);

/* Number 0: "host:0". */
int kvh_device_host_open(struct kvh_device **dev_p);
/* One of several, told apart by number: label and UUID follow from it. `beside` is one
 * of the others, whose registrations hold for this one, too, and the other way round;
 * NULL: the first. */
int kvh_device_host_open_nth(uint32_t number, struct kvh_device *beside,
			     struct kvh_device **dev_p);
/* No threads: queued work runs only in kvh_host_step (device_host.h). */
int kvh_device_host_open_stepped(struct kvh_device **dev_p);
/* Built only with CUDA; device.c is the one file that knows. */
int kvh_device_cuda_open(int ordinal, struct kvh_device **dev_p);
int kvh_device_cuda_count(void); /* or a negative errno: -ENODEV, no driver */
const char *kvh_device_cuda_describe(void);

#ifdef __cplusplus
}
#endif
#endif
