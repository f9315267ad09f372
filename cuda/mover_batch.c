/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_batch.c - which copies the pieces of a stage are.
 *
 * A piece that goes on where the last one ended, on both sides, makes it longer.
 * One that lies at the last one's stride makes it higher: so the payloads of
 * frames that lie side by side, with their headers in between, are one 2-D copy.
 */
#include "cuda/mover_batch.h"

#include <limits.h>

static bool makes_longer(const struct kvh_batch_piece *last, const unsigned char *payload,
			 const unsigned char *stage)
{
	return last->rows == 1 && last->payload + last->bytes == payload &&
	       last->stage + last->bytes == stage;
}

/* A second row sets the strides, the others keep to them. */
static bool makes_higher(const struct kvh_batch_piece *last, const unsigned char *payload,
			 const unsigned char *stage, uint64_t bytes)
{
	uint64_t from_payload = (uint64_t)(uintptr_t)payload - (uintptr_t)last->payload;
	uint64_t from_stage = (uint64_t)(uintptr_t)stage - (uintptr_t)last->stage;

	if (bytes != last->bytes || bytes >= KVH_MOVER_ROWS_BELOW)
		return false;
	if (last->rows > 1)
		return from_payload == last->rows * last->payload_stride &&
		       from_stage == last->rows * last->stage_stride;
	/* Backwards is a huge number: no pitch either. */
	return from_payload >= bytes && from_payload <= INT_MAX && from_stage >= bytes &&
	       from_stage <= INT_MAX;
}

int kvh_batch_add(struct kvh_device *dev, struct kvh_batch *batch, unsigned char *payload,
		  unsigned char *stage, uint64_t bytes)
{
	struct kvh_batch_piece *last = batch->n ? &batch->pieces[batch->n - 1] : NULL;
	int rc = 0;

	if (last && makes_longer(last, payload, stage)) {
		last->bytes += bytes;
		return 0;
	}
	if (last && makes_higher(last, payload, stage, bytes)) {
		if (last->rows++ == 1) {
			last->payload_stride = (uint64_t)(payload - last->payload);
			last->stage_stride = (uint64_t)(stage - last->stage);
		}
		return 0;
	}
	if (batch->n == KVH_MOVER_BATCH)
		rc = kvh_batch_flush(dev, batch);
	batch->pieces[batch->n++] = (struct kvh_batch_piece){
		.payload = payload,
		.stage = stage,
		.bytes = bytes,
		.rows = 1,
	};
	return rc;
}

static int submit_rows(struct kvh_device *dev, const struct kvh_batch *batch,
		       const struct kvh_batch_piece *piece)
{
	bool out = batch->kind == KVH_COPY_D2H;

	return dev->ops->copy_2d(dev, batch->kind, out ? piece->payload : piece->stage,
				 out ? piece->payload_stride : piece->stage_stride,
				 out ? piece->stage : piece->payload,
				 out ? piece->stage_stride : piece->payload_stride,
				 piece->bytes, piece->rows, batch->stream);
}

int kvh_batch_flush(struct kvh_device *dev, struct kvh_batch *batch)
{
	bool out = batch->kind == KVH_COPY_D2H;
	size_t n = batch->n, flat = 0;
	int rc = 0;

	batch->n = 0;
	for (size_t i = 0; i < n && rc == 0; i++) {
		const struct kvh_batch_piece *piece = &batch->pieces[i];

		if (piece->rows > 1)
			rc = submit_rows(dev, batch, piece);
		else
			batch->copies[flat++] = (struct kvh_copy){
				.dst = out ? piece->payload : piece->stage,
				.src = out ? piece->stage : piece->payload,
				.bytes = piece->bytes,
			};
	}
	if (rc || flat == 0)
		return rc;
	if (flat == 1)
		return dev->ops->copy(dev, batch->kind, &batch->copies[0], batch->stream);
	return dev->ops->copy_batch(dev, batch->kind, batch->copies, flat, batch->stream);
}
