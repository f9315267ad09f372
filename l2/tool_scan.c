/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tool_scan.c - a pass over all slots of the files: some threads for each file, each
 * of which reads the next run of slots and judges it, so that the disk always has
 * several large reads to do. The main thread waits, and shows how far they are.
 *
 *   for each file   cursor ---> run ---> run ---> ...   (under scan.lock)
 *                               |        |
 *                            reader   reader            (reads and checksums, no lock)
 *                               \        /
 *                              visit, counts            (under scan.lock)
 *
 * What is damaged is put aside and read once more when all is done, from a table that
 * is read anew: it may have been written to meanwhile.
 *
 *   slots == frames + blank + damaged + changed, but for sound ones among `changed`
 *
 * Memory: READ_BYTES a thread, and some 200 bytes for each damaged frame.
 */
#include "l2/tool.h"

#include "host/clock.h"
#include "host/log.h"
#include "host/work.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define READ_BYTES     (UINT64_C(2) << 20)  /* of one read, and a huge page */
#define SMALL_BYTES    (UINT64_C(16) << 10) /* slots whose headers are read together */
#define HEADERS        64u                  /* of a run, where only these are read */
#define WHOLE_THREADS  16u
#define HEADER_THREADS 32u
#define SHOW_MS        200

struct run {
	uint32_t segment, first, n;
	struct kvh_nvme_segment_info in;
};

struct damage {
	struct kvh_tool_slot slot;
	uint64_t page_sum; /* of the header page as it was read first; 0: could not be */
};

struct scan {
	struct kvh_tool *tool;
	bool whole, show;
	void (*visit)(void *arg, const struct kvh_tool_slot *slot);
	void *arg;
	uint64_t began_ns;

	pthread_mutex_t lock; /* of all below, and of visits */
	pthread_cond_t ended;
	uint32_t running; /* readers */
	struct {
		uint32_t segment, slot;
	} next[KVH_NVME_STRIPES];
	uint64_t done, all; /* bytes of slots if whole, else slots */
	struct kvh_tool_totals totals;
	struct damage *damages; /* [n_damages] */
	size_t n_damages, room;
	int err;
};

/* A thread's. */
struct reader {
	struct kvh_work work;
	struct scan *scan;
	uint32_t file;
	char *buf;  /* READ_BYTES */
	char *page; /* a header, while buf is used for what follows it */
};

/* ---- one slot ---- */

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* The first `have` bytes of the frame are at `begin`, a page of it at least; what
 * follows them is read to reader->buf. 0, -ENOENT, -EBADMSG or a reading error. */
static int judge_payload(struct reader *reader, const struct kvh_nvme_inspect *inspect,
			 struct kvh_tool_slot *slot, const char *begin, uint64_t have)
{
	const struct kvh_frame_header *header = slot->header;
	uint64_t sum = kvh_frame_sum_begin(header);
	uint64_t done = have;

	if (header->checksum_algo != KVH_CHECKSUM_CRC64_ECMA) {
		slot->fault = "checksum algorithm";
		return -EBADMSG;
	}
	sum = kvh_frame_sum_add(sum, begin + KVH_FRAME_ALIGN, have - KVH_FRAME_ALIGN);
	while (done < slot->bytes) {
		uint64_t n = min_u64(slot->bytes - done, READ_BYTES);
		int ret = kvh_nvme_inspect_read(inspect, slot->offset + done, n, reader->buf);

		if (ret < 0)
			return ret;
		sum = kvh_frame_sum_add(sum, reader->buf, n);
		done += n;
	}
	if (sum == header->checksum)
		return 0;
	slot->fault = "payload checksum";
	return -EBADMSG;
}

static int judge(struct reader *reader, const struct kvh_nvme_inspect *inspect,
		 struct kvh_tool_slot *slot, const char *begin, uint64_t have)
{
	int ret;

	slot->header = (const struct kvh_frame_header *)(const void *)begin;
	if (reader->scan->whole && have < slot->bytes)
		slot->header = memcpy(reader->page, begin, KVH_FRAME_ALIGN);
	slot->named = true;
	slot->key = slot->header->key;
	slot->sequence = slot->header->sequence;
	ret = kvh_nvme_inspect_judge(slot->header, slot->bytes, &slot->fault);
	if (ret == 0 && reader->scan->whole)
		ret = judge_payload(reader, inspect, slot, begin, have);
	return ret;
}

static int read_and_judge(struct reader *reader, const struct kvh_nvme_inspect *inspect,
			  struct kvh_tool_slot *slot)
{
	uint64_t n = reader->scan->whole ? min_u64(slot->bytes, READ_BYTES) : KVH_FRAME_ALIGN;
	int ret = kvh_nvme_inspect_read(inspect, slot->offset, n, reader->buf);

	if (ret == 0)
		ret = judge(reader, inspect, slot, reader->buf, n);
	if (ret < 0 && ret != -ENOENT && ret != -EBADMSG)
		slot->fault = strerrordesc_np(-ret);
	return ret;
}

/* ---- what becomes of it ---- */

static void put_aside(struct scan *scan, const struct kvh_tool_slot *slot)
{
	struct damage *bigger = scan->damages;

	if (scan->n_damages == scan->room) {
		scan->room = scan->room == 0 ? 64 : 2 * scan->room;
		bigger = realloc(scan->damages, scan->room * sizeof(*bigger));
	}
	if (bigger == NULL) {
		scan->room = scan->n_damages;
		scan->err = -ENOMEM;
		return;
	}
	scan->damages = bigger;
	scan->damages[scan->n_damages++] = (struct damage){
		.slot = *slot,
		.page_sum = slot->header == NULL
				    ? 0
				    : kvh_frame_sum_add(0, slot->header, KVH_FRAME_ALIGN),
	};
}

static void take_sound(struct scan *scan, const struct kvh_tool_slot *slot)
{
	scan->totals.frames++;
	scan->totals.bytes += slot->bytes;
	scan->visit(scan->arg, slot);
}

static void report(struct scan *scan, const struct kvh_tool_slot *slot, int status)
{
	(void)pthread_mutex_lock(&scan->lock);
	scan->totals.slots++;
	scan->done += scan->whole ? slot->bytes : 1;
	if (status == 0)
		take_sound(scan, slot);
	else if (status == -ENOENT)
		scan->totals.blank++;
	else
		put_aside(scan, slot);
	(void)pthread_mutex_unlock(&scan->lock);
}

/* ---- runs ---- */

static uint32_t run_slots(const struct scan *scan, uint64_t slot_bytes)
{
	if (scan->whole)
		return slot_bytes >= READ_BYTES ? 1 : (uint32_t)(READ_BYTES / slot_bytes);
	return HEADERS;
}

/* False: there are no more in the file. */
static bool take_run(struct scan *scan, uint32_t file, struct run *run)
{
	const struct kvh_tool_file *from = &scan->tool->files[file];
	uint32_t *segment = &scan->next[file].segment, *slot = &scan->next[file].slot;
	bool found = false;

	(void)pthread_mutex_lock(&scan->lock);
	while (!found && *segment < from->info.segments && scan->err == 0) {
		kvh_nvme_inspect_segment(from->inspect, *segment, &run->in);
		found = *slot < run->in.used;
		if (!found) {
			++*segment;
			*slot = 0;
		}
	}
	if (found) {
		run->segment = *segment;
		run->first = *slot;
		run->n = run_slots(scan, run->in.slot_bytes);
		if (run->n > run->in.used - run->first)
			run->n = run->in.used - run->first;
		*slot += run->n;
	}
	(void)pthread_mutex_unlock(&scan->lock);
	return found;
}

static struct kvh_tool_slot slot_of(const struct reader *reader, const struct run *run,
				    uint32_t i)
{
	return (struct kvh_tool_slot){
		.file = reader->file,
		.segment = run->segment,
		.slot = run->first + i,
		.offset = run->in.offset + (run->first + i) * run->in.slot_bytes,
		.bytes = run->in.slot_bytes,
	};
}

/* All of a run in one read, where that is what is wanted of it; false: it is not, or
 * something in it cannot be read, and each slot is to be read alone. */
static bool read_together(struct reader *reader, const struct kvh_nvme_inspect *inspect,
			  const struct run *run)
{
	uint64_t bytes = run->n * run->in.slot_bytes;

	if (bytes > READ_BYTES || (!reader->scan->whole && run->in.slot_bytes > SMALL_BYTES))
		return false;
	return kvh_nvme_inspect_read(inspect, run->in.offset + run->first * run->in.slot_bytes,
				     bytes, reader->buf) == 0;
}

static void reader_run(struct kvh_work *work)
{
	struct reader *reader = (struct reader *)(void *)work; /* its first field */
	struct scan *scan = reader->scan;
	const struct kvh_nvme_inspect *inspect = scan->tool->files[reader->file].inspect;
	struct run run;

	while (take_run(scan, reader->file, &run)) {
		bool together = read_together(reader, inspect, &run);

		for (uint32_t i = 0; i < run.n; i++) {
			struct kvh_tool_slot slot = slot_of(reader, &run, i);
			int status = together ? judge(reader, inspect, &slot,
						      reader->buf + i * slot.bytes, slot.bytes)
					      : read_and_judge(reader, inspect, &slot);

			report(scan, &slot, status);
		}
	}
	(void)pthread_mutex_lock(&scan->lock);
	scan->running--;
	(void)pthread_cond_signal(&scan->ended);
	(void)pthread_mutex_unlock(&scan->lock);
}

/* ---- a second time ---- */

static int compare_damages(const void *a, const void *b)
{
	const struct kvh_tool_slot *x = &((const struct damage *)a)->slot;
	const struct kvh_tool_slot *y = &((const struct damage *)b)->slot;

	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	return (x->offset > y->offset) - (x->offset < y->offset);
}

static void look_again(struct reader *reader, const struct kvh_nvme_inspect *inspect,
		       const struct damage *damage)
{
	struct scan *scan = reader->scan;
	struct kvh_tool_slot slot = damage->slot;
	struct kvh_nvme_segment_info in;
	uint64_t sum = 0;
	int status;

	kvh_nvme_inspect_segment(inspect, slot.segment, &in);
	slot.header = NULL;
	slot.fault = NULL;
	slot.named = false;
	status = in.slot_bytes != slot.bytes || slot.slot >= in.used
			 ? -ENOENT
			 : read_and_judge(reader, inspect, &slot);
	if (slot.header != NULL)
		sum = kvh_frame_sum_add(0, slot.header, KVH_FRAME_ALIGN);
	if (status == 0)
		take_sound(scan, &slot);
	if (status == 0 || status == -ENOENT || sum != damage->page_sum) {
		scan->totals.changed++;
		return;
	}
	slot.header = NULL;
	scan->totals.damaged++;
	scan->visit(scan->arg, &slot);
}

/* A write that was under way has a second to end. */
static void let_writes_end(const struct scan *scan)
{
	const struct timespec pause = {.tv_sec = 1};
	bool in_use = false;

	for (uint32_t i = 0; i < scan->tool->n; i++)
		in_use = in_use || scan->tool->files[i].info.in_use;
	if (in_use && scan->n_damages > 0)
		(void)nanosleep(&pause, NULL);
}

/* The readers have ended. */
static int damages_again(struct scan *scan, struct reader *reader)
{
	struct kvh_nvme_inspect *inspect = NULL;
	int ret = 0;

	let_writes_end(scan);
	if (scan->n_damages > 0)
		qsort(scan->damages, scan->n_damages, sizeof(*scan->damages), compare_damages);
	for (size_t i = 0; i < scan->n_damages; i++) {
		uint32_t file = scan->damages[i].slot.file;

		if (inspect == NULL || file != reader->file) {
			if (inspect != NULL)
				kvh_nvme_inspect_close(inspect);
			inspect = NULL;
			ret = kvh_nvme_inspect_open(scan->tool->files[file].path,
						    &kvh_io_system, NULL, &inspect);
			if (ret < 0)
				return ret;
		}
		reader->file = file;
		look_again(reader, inspect, &scan->damages[i]);
	}
	if (inspect != NULL)
		kvh_nvme_inspect_close(inspect);
	return 0;
}

/* ---- how far it is ---- */

static void show(const struct scan *scan, uint64_t now_ns)
{
	static const char bar[] = "####################--------------------";
	unsigned percent = scan->all == 0 ? 100 : (unsigned)(100 * scan->done / scan->all);
	char bytes[24];

	(void)fprintf(stderr, "\r%3u %% [%.20s] ", percent, bar + 20 - percent / 5);
	if (scan->whole)
		(void)fprintf(stderr, "%s, %.2f GB/s, ", kvh_size_text(scan->done, bytes),
			      kvh_tool_rate(scan->done, now_ns - scan->began_ns));
	(void)fprintf(stderr, "%" PRIu64 " frames, %zu damaged \033[K", scan->totals.frames,
		      scan->n_damages);
	(void)fflush(stderr);
}

static void wait_for_readers(struct scan *scan)
{
	(void)pthread_mutex_lock(&scan->lock);
	while (scan->running > 0) {
		uint64_t now = kvh_now_ns();
		struct timespec until = kvh_timespec(now + SHOW_MS * KVH_NS_PER_MS);

		if (scan->show)
			show(scan, now);
		(void)pthread_cond_clockwait(&scan->ended, &scan->lock, CLOCK_MONOTONIC,
					     &until);
	}
	if (scan->show) {
		show(scan, kvh_now_ns());
		(void)fputc('\n', stderr);
	}
	(void)pthread_mutex_unlock(&scan->lock);
}

/* ---- all of it ---- */

static uint64_t count_all(const struct scan *scan)
{
	uint64_t all = 0;

	for (uint32_t i = 0; i < scan->tool->n; i++) {
		const struct kvh_tool_file *file = &scan->tool->files[i];

		for (uint32_t s = 0; s < file->info.segments; s++) {
			struct kvh_nvme_segment_info in;

			kvh_nvme_inspect_segment(file->inspect, s, &in);
			all += in.used * (scan->whole ? in.slot_bytes : 1);
		}
	}
	return all;
}

static int readers_init(struct scan *scan, struct reader *readers, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		readers[i] = (struct reader){
			.work.run = reader_run,
			.scan = scan,
			.file = i % scan->tool->n,
			.buf = aligned_alloc(READ_BYTES, READ_BYTES),
			.page = aligned_alloc(KVH_FRAME_ALIGN, KVH_FRAME_ALIGN),
		};
		if (readers[i].buf == NULL || readers[i].page == NULL)
			return -ENOMEM;
		if (scan->whole) /* fewer pieces for the disk to gather; else no harm */
			(void)madvise(readers[i].buf, READ_BYTES, MADV_HUGEPAGE);
	}
	return 0;
}

static void readers_free(struct reader *readers, uint32_t n)
{
	for (uint32_t i = 0; readers != NULL && i < n; i++) {
		free(readers[i].page);
		free(readers[i].buf);
	}
	free(readers);
}

static int scan_run(struct scan *scan, struct reader *readers, uint32_t n)
{
	struct kvh_workers *workers;
	int ret = kvh_workers_open(n, &workers);

	if (ret < 0)
		return ret;
	scan->running = n;
	for (uint32_t i = 0; i < n; i++)
		kvh_workers_post(workers, &readers[i].work);
	wait_for_readers(scan);
	kvh_workers_close(workers);
	scan->totals.ns = kvh_now_ns() - scan->began_ns;
	return scan->err < 0 ? scan->err : damages_again(scan, &readers[0]);
}

int kvh_tool_scan(struct kvh_tool *tool, bool whole,
		  void (*visit)(void *arg, const struct kvh_tool_slot *slot), void *arg,
		  struct kvh_tool_totals *totals)
{
	struct scan scan = {.tool = tool, .whole = whole, .visit = visit, .arg = arg};
	uint32_t threads = tool->opts->threads;
	struct reader *readers;
	uint32_t n;
	int ret = -ENOMEM;

	if (threads == 0)
		threads = whole ? WHOLE_THREADS : HEADER_THREADS;
	n = threads * tool->n;
	readers = calloc(n, sizeof(*readers));
	scan.show = !tool->opts->quiet && isatty(STDERR_FILENO) == 1;
	scan.all = count_all(&scan);
	scan.began_ns = kvh_now_ns();
	(void)pthread_mutex_init(&scan.lock, NULL);
	(void)pthread_cond_init(&scan.ended, NULL);
	if (readers != NULL)
		ret = readers_init(&scan, readers, n);
	if (ret == 0)
		ret = scan_run(&scan, readers, n);
	if (ret < 0)
		kvh_err("the frames cannot be looked at: %s", strerror(-ret));
	readers_free(readers, n);
	(void)pthread_cond_destroy(&scan.ended);
	(void)pthread_mutex_destroy(&scan.lock);
	free(scan.damages);
	*totals = scan.totals;
	return ret;
}
