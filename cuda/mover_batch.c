/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_batch.c - which copies the pieces of a stage, or of pages, are.
 *
 * A piece that goes on where the last one ended, on both sides, makes it longer.
 * One that lies at the last one's stride makes it higher: so the payloads of
 * frames that lie side by side, with their headers in between, are one 2-D copy.
 */
#include "cuda/mover_batch.h"

#include <assert.h>
#include <limits.h>

static bool makes_longer(const struct kvh_batch_piece *last, const unsigned char *payload,
			 const unsigned char *mem)
{
	return last->rows == 1 && last->payload + last->bytes == payload &&
	       last->mem + last->bytes == mem;
}

static bool pinned_together(const struct kvh_batch *batch, const unsigned char *a,
			    const unsigned char *b)
{
	return batch->pinned_stride == 0 ||
	       ((uintptr_t)a - batch->pinned_base) / batch->pinned_stride ==
		       ((uintptr_t)b - batch->pinned_base) / batch->pinned_stride;
}

/* A second row sets the strides, the others keep to them. */
static bool makes_higher(const struct kvh_batch_piece *last, const unsigned char *payload,
			 const unsigned char *mem, uint64_t bytes)
{
	uint64_t from_payload = (uint64_t)(uintptr_t)payload - (uintptr_t)last->payload;
	uint64_t from_mem = (uint64_t)(uintptr_t)mem - (uintptr_t)last->mem;

	if (bytes != last->bytes || bytes >= KVH_MOVER_ROWS_BELOW)
		return false;
	if (last->rows > 1)
		return from_payload == last->rows * last->payload_stride &&
		       from_mem == last->rows * last->mem_stride;
	/* Backwards is a huge number: no pitch either. */
	return from_payload >= bytes && from_payload <= INT_MAX && from_mem >= bytes &&
	       from_mem <= INT_MAX;
}

static int batch_push(struct kvh_device *dev, struct kvh_batch *batch,
		      const struct kvh_batch_piece *piece)
{
	int rc = batch->n == KVH_MOVER_BATCH ? kvh_batch_flush(dev, batch) : 0;

	batch->pieces[batch->n++] = *piece;
	batch->sealed = false;
	return rc;
}

int kvh_batch_add(struct kvh_device *dev, struct kvh_batch *batch, unsigned char *payload,
		  unsigned char *mem, uint64_t bytes)
{
	struct kvh_batch_piece *last = batch->n && !batch->sealed ? &batch->pieces[batch->n - 1]
								  : NULL;
	struct kvh_batch_piece piece = {
		.payload = payload, .mem = mem, .bytes = bytes, .rows = 1};

	if (last && makes_longer(last, payload, mem)) {
		last->bytes += bytes;
		return 0;
	}
	if (last && makes_higher(last, payload, mem, bytes) &&
	    pinned_together(batch, last->payload, payload)) {
		if (last->rows++ == 1) {
			last->payload_stride = (uint64_t)(payload - last->payload);
			last->mem_stride = (uint64_t)(mem - last->mem);
		}
		return 0;
	}
	return batch_push(dev, batch, &piece);
}

int kvh_batch_add_rows(struct kvh_device *dev, struct kvh_batch *batch,
		       const struct kvh_batch_piece *piece)
{
	uint64_t payload_stride = piece->payload_stride, mem_stride = piece->mem_stride;
	int rc = 0;

	if (piece->rows > 1 && piece->bytes < KVH_MOVER_ROWS_BELOW) {
		assert(payload_stride >= piece->bytes && payload_stride <= INT_MAX);
		assert(mem_stride >= piece->bytes && mem_stride <= INT_MAX);
		return batch_push(dev, batch, piece);
	}
	for (uint64_t i = 0; i < piece->rows && rc == 0; i++)
		rc = kvh_batch_add(dev, batch, piece->payload + i * payload_stride,
				   piece->mem + i * mem_stride, piece->bytes);
	return rc;
}

static int submit_rows(struct kvh_device *dev, const struct kvh_batch *batch,
		       const struct kvh_batch_piece *piece)
{
	bool out = batch->kind == KVH_COPY_D2H;

	return dev->ops->copy_2d(dev, batch->kind, out ? piece->payload : piece->mem,
				 out ? piece->payload_stride : piece->mem_stride,
				 out ? piece->mem : piece->payload,
				 out ? piece->mem_stride : piece->payload_stride, piece->bytes,
				 piece->rows, batch->stream);
}

static int submit_flat(struct kvh_device *dev, const struct kvh_batch *batch, size_t n)
{
	if (n == 0)
		return 0;
	if (n == 1)
		return dev->ops->copy(dev, batch->kind, &batch->copies[0], batch->stream);
	return dev->ops->copy_batch(dev, batch->kind, batch->copies, n, batch->stream);
}

/* The rows join the copies that one submission takes. */
static int flatten(struct kvh_device *dev, struct kvh_batch *batch,
		   const struct kvh_batch_piece *piece, size_t *flat)
{
	bool out = batch->kind == KVH_COPY_D2H;
	int rc = 0;

	for (uint64_t i = 0; i < piece->rows && rc == 0; i++) {
		unsigned char *payload = piece->payload + i * piece->payload_stride;
		unsigned char *mem = piece->mem + i * piece->mem_stride;

		if (*flat == KVH_MOVER_BATCH) {
			rc = submit_flat(dev, batch, *flat);
			*flat = 0;
		}
		batch->copies[(*flat)++] = (struct kvh_copy){
			.dst = out ? payload : mem,
			.src = out ? mem : payload,
			.bytes = piece->bytes,
		};
	}
	return rc;
}

int kvh_batch_flush(struct kvh_device *dev, struct kvh_batch *batch)
{
	size_t n = batch->n, flat = 0;
	int rc = 0;

	batch->n = 0;
	batch->sealed = false;
	for (size_t i = 0; i < n && rc == 0; i++) {
		const struct kvh_batch_piece *piece = &batch->pieces[i];

		rc = piece->rows < KVH_MOVER_ROWS_MIN ? flatten(dev, batch, piece, &flat)
						      : submit_rows(dev, batch, piece);
	}
	return rc ? rc : submit_flat(dev, batch, flat);
}
