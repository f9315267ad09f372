/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover_direct.c - the pieces that payloads and pages are, where no stage lies in
 * between. Arithmetic over plans and page numbers; the thread that enqueues.
 *
 * A band's units in a chunk are a rectangle of planes and pages, or up to three,
 * where it begins or ends within a plane. In one, neighbouring planes of one
 * geometry at one stride are a stack:
 *
 *                page 4 5 6   9            spans of adjacent pages: a row is a span
 *     plane 0         #####   #
 *     plane 1         #####   #            rows of a copy are the planes of a stack,
 *     plane 2         #####   #            or spans of one plane at one stride,
 *                                          whichever makes fewer copies
 *
 * Limit: only units that are one run, so that a page's bytes of a plane are one
 * piece of the payload.
 */
#include "cuda/mover_direct.h"

#include <assert.h>
#include <limits.h>

/* Where planes [at, end) of one geometry lie at one stride on both sides. */
struct stack {
	uint32_t first, end;
	uint64_t mem_stride, payload_stride; /* from 2 planes on */
};

static bool same_geometry(const struct kvh_plan_plane *a, const struct kvh_plan_plane *b)
{
	return a->alloc == b->alloc && a->unit_bytes == b->unit_bytes &&
	       a->page_stride == b->page_stride;
}

/* The longest stack from `first` on. Pitches that no 2-D copy takes end it. */
static struct stack stack_at(const struct kvh_plan *plan, uint32_t first, uint32_t end)
{
	const struct kvh_plan_plane *plane = &plan->planes[first];
	struct stack stack = {.first = first, .end = first + 1};

	if (stack.end == end)
		return stack;
	stack.mem_stride = plane[1].base - plane[0].base; /* backwards: a huge number */
	stack.payload_stride = plane[1].payload_off - plane[0].payload_off;
	if (stack.mem_stride < plane->unit_bytes || stack.mem_stride > INT_MAX ||
	    stack.payload_stride > INT_MAX)
		return stack;
	while (stack.end < end && same_geometry(plane, plane + 1) &&
	       plane[1].base - plane[0].base == stack.mem_stride) {
		stack.end++;
		plane++;
	}
	return stack;
}

/* ---- spans of pages ---------------------------------------------------- */

/* Pages [first, first + n) of a chunk, one behind the other in the pool. */
struct span {
	uint32_t first, n;
};

/* The first span in [at, end); n is 0 if no page is there. */
static struct span span_at(const struct kvh_plan *plan, const uint32_t *pages, uint32_t at,
			   uint32_t end, bool dense)
{
	struct span span;

	while (at < end && pages[at] >= plan->n_pages)
		at++;
	span = (struct span){at, at < end};
	while (dense && span.n && at + span.n < end && pages[at + span.n] < plan->n_pages &&
	       pages[at + span.n] == pages[at] + span.n)
		span.n++;
	return span;
}

/* How many copies the spans are: rows one by one, and with rows at one stride joined. */
static void count_spans(const struct kvh_plan *plan, const uint32_t *pages, uint32_t at,
			uint32_t end, bool dense, uint32_t *spans_p, uint32_t *joined_p)
{
	struct span last = {0}, span;
	uint32_t rows = 0, step = 0, jump = 0;

	*spans_p = *joined_p = 0;
	for (; (span = span_at(plan, pages, at, end, dense)).n; at = span.first + span.n) {
		uint32_t to_step = span.first - last.first;
		uint32_t to_jump = pages[span.first] - pages[last.first];
		bool joins = rows && span.n == last.n && to_jump <= INT32_MAX &&
			     (rows == 1 || (to_step == step && to_jump == jump));

		++*spans_p;
		*joined_p += !joins;
		rows = joins ? rows + 1 : 1;
		step = to_step;
		jump = to_jump;
		last = span;
	}
}

/* ---- copies ------------------------------------------------------------ */

struct direct {
	const struct kvh_band *band;
	struct kvh_device *dev;
	struct kvh_batch *batch;
	const uint32_t *pages; /* of the chunk */
	unsigned char *payload;
	uint32_t alloc; /* that the last copy is in; no other may be joined to it */
};

static struct kvh_batch_piece piece_at(const struct direct *d, const struct stack *stack,
				       struct span span)
{
	const struct kvh_plan_plane *plane = &d->band->plan->planes[stack->first];

	return (struct kvh_batch_piece){
		.payload = d->payload + plane->payload_off + span.first * plane->unit_bytes,
		.mem = (unsigned char *)(uintptr_t)(plane->base +
						    d->pages[span.first] * plane->page_stride),
		.bytes = span.n * plane->unit_bytes,
		.rows = stack->end - stack->first,
		.payload_stride = stack->payload_stride,
		.mem_stride = stack->mem_stride,
	};
}

/* Every span of pages, with as many rows as the stack has planes. */
static int copy_spans(const struct direct *d, const struct stack *stack, uint32_t at,
		      uint32_t end)
{
	const struct kvh_plan *plan = d->band->plan;
	const struct kvh_plan_plane *plane = &plan->planes[stack->first];
	bool dense = plane->page_stride == plane->unit_bytes;
	struct span span;
	int rc = 0;

	for (; rc == 0 && (span = span_at(plan, d->pages, at, end, dense)).n;
	     at = span.first + span.n) {
		struct kvh_batch_piece piece = piece_at(d, stack, span);

		/* Dense planes that do not overlap are further apart than their pages. */
		assert(piece.rows == 1 || piece.bytes <= piece.mem_stride);
		rc = kvh_batch_add_rows(d->dev, d->batch, &piece);
	}
	return rc;
}

static int copy_stack(struct direct *d, const struct stack *stack, uint32_t at, uint32_t end)
{
	const struct kvh_plan_plane *plane = &d->band->plan->planes[stack->first];
	uint32_t n = stack->end - stack->first, spans, joined;
	int rc = 0;

	if (d->alloc != plane->alloc)
		kvh_batch_seal(d->batch);
	d->alloc = plane->alloc;
	count_spans(d->band->plan, d->pages, at, end, plane->page_stride == plane->unit_bytes,
		    &spans, &joined);
	if (spans <= (uint64_t)joined * n)
		return copy_spans(d, stack, at, end);
	for (uint32_t p = stack->first; p < stack->end && rc == 0; p++) {
		const struct stack one = {.first = p, .end = p + 1};

		rc = copy_spans(d, &one, at, end);
	}
	return rc;
}

/* Pages [at, end) of planes [first, last). */
static int copy_rectangle(struct direct *d, uint32_t first, uint32_t last, uint32_t at,
			  uint32_t end)
{
	struct stack stack;
	int rc = 0;

	for (; first < last && rc == 0; first = stack.end) {
		stack = stack_at(d->band->plan, first, last);
		rc = copy_stack(d, &stack, at, end);
	}
	return rc;
}

/* The units [first, end) of a chunk, counted in it. */
static int copy_chunk(struct direct *d, uint64_t first, uint64_t end)
{
	uint32_t ppc = d->band->plan->pages_per_chunk, base = d->band->plane_first;
	uint32_t plane = (uint32_t)(first / ppc), page = (uint32_t)(first % ppc);
	uint32_t last = (uint32_t)(end / ppc), last_page = (uint32_t)(end % ppc);
	int rc = 0;

	if (plane == last)
		return copy_rectangle(d, base + plane, base + plane + 1, page, last_page);
	if (page) {
		rc = copy_rectangle(d, base + plane, base + plane + 1, page, ppc);
		plane++;
	}
	if (rc == 0)
		rc = copy_rectangle(d, base + plane, base + last, 0, ppc);
	if (rc == 0 && last_page)
		rc = copy_rectangle(d, base + last, base + last + 1, 0, last_page);
	return rc;
}

int kvh_direct_copy(const struct kvh_band *band, uint64_t first, uint64_t end,
		    struct kvh_device *dev, struct kvh_batch *batch)
{
	struct direct d = {
		.band = band,
		.dev = dev,
		.batch = batch,
		.alloc = band->plan->planes[band->plane_first].alloc,
	};
	int rc = 0;

	assert(first <= end && end <= band->total);
	batch->n = 0;
	for (uint64_t u = first, to; u < end && rc == 0; u = to) {
		uint64_t chunk = u / band->units, begin = chunk * band->units;

		to = begin + band->units < end ? begin + band->units : end;
		d.pages = band->part->pages + chunk * band->plan->pages_per_chunk;
		d.payload = band->part->payloads[chunk];
		rc = copy_chunk(&d, u - begin, to - begin);
	}
	return rc ? rc : kvh_batch_flush(dev, batch);
}

/* ---- what they would be like ------------------------------------------- */

static uint32_t layer_end(const struct kvh_plan *plan, uint32_t first)
{
	uint32_t end = first + 1;

	while (end < plan->n_planes && plan->planes[end].layer == plan->planes[first].layer)
		end++;
	return end;
}

void kvh_direct_shape(const struct kvh_plan *plan, bool by_layer,
		      struct kvh_direct_shape *shape)
{
	uint64_t page_bytes = plan->payload_bytes / plan->pages_per_chunk;
	uint32_t stacks = 0, end;

	*shape = (struct kvh_direct_shape){.can = true};
	for (uint32_t i = 0; i < plan->n_planes; i++)
		shape->can &= plan->planes[i].n_inner == 1 && plan->planes[i].n_outer == 1;
	for (uint32_t i = 0; i < plan->n_planes; i = end) {
		end = by_layer ? layer_end(plan, i) : plan->n_planes;
		end = stack_at(plan, i, end).end;
		stacks++;
	}
	shape->row_bytes = page_bytes / plan->n_planes;
	shape->rows = plan->n_planes / stacks;
	shape->copy_bytes = page_bytes / stacks;
}
