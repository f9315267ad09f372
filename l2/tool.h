/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tool.h - what the subcommands of kvhoist-l2 share: options, the files that they
 * look at, a pass over all frames, and how they end. docs/nvme.md has a section for
 * those who run it.
 *
 * Files are opened for reading, whoever else has them open; only discard locks them,
 * as the adapter does, and writes.
 */
#ifndef KVH_L2_TOOL_H
#define KVH_L2_TOOL_H

#include "host/frame.h"
#include "l2/nvme_inspect.h"
#include "l2/nvme_layout.h"
#include "l2/size_text.h"

#include <jansson.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kvh_tool_exit {
	KVH_TOOL_OK = 0,      /* sound, or done */
	KVH_TOOL_DAMAGE = 1,  /* damage was found */
	KVH_TOOL_REFUSED = 2, /* arguments; not ours; another version; or it cannot be done */
	KVH_TOOL_IN_USE = 3,  /* by another process */
};

/* A key or a part of it: a hash, or a frame's whole name in its space. */
struct kvh_tool_key {
	bool given, exact; /* exact: rank and group, too */
	struct kvh_hash hash;
	uint32_t rank, group;
};

/* Its id, or its digest: 16 or 64 hexadecimal digits. */
struct kvh_tool_space {
	bool given, exact; /* exact: all of the digest */
	uint64_t id;
	uint8_t digest[32];
};

struct kvh_tool_opts {
	char **paths;
	uint32_t n_paths;
	uint32_t threads; /* a file; 0: chosen */
	bool json, quiet;
	bool yes, damaged;           /* discard */
	struct kvh_tool_space space; /* dump, discard */
	struct kvh_tool_key key;     /* dump */
	const char *output;          /* dump; NULL: stdout */
};

struct kvh_tool_file {
	const char *path;
	struct kvh_nvme_inspect *inspect;
	struct kvh_nvme_info info;
};

/* Files of one set, in the order of the stripes; some may be missing. */
struct kvh_tool {
	const struct kvh_tool_opts *opts;
	struct kvh_tool_file files[KVH_NVME_STRIPES];
	uint32_t n;
};

/* The subcommands. Return an exit status. */
int kvh_tool_inspect(const struct kvh_tool_opts *opts);
int kvh_tool_verify(const struct kvh_tool_opts *opts);
int kvh_tool_dump(const struct kvh_tool_opts *opts);
int kvh_tool_discard(const struct kvh_tool_opts *opts);

/* ---- tool_set.c: the files ---- */

/* 0, or an exit status: the reason was printed. */
int kvh_tool_open(struct kvh_tool *tool, const struct kvh_tool_opts *opts);
void kvh_tool_close(struct kvh_tool *tool);
/* Says which process has them open, and that stripes are missing; on stderr, so that
 * what scripts read is the same with it and without. */
void kvh_tool_remark(const struct kvh_tool *tool);
/* Damage that is not a frame's: of superblocks and tables, or a file that was cut.
 * Prints a line for each to `out`, if that is not NULL; returns how many. */
uint32_t kvh_tool_faults(const struct kvh_tool *tool, FILE *out);
json_t *kvh_tool_files_json(const struct kvh_tool *tool);

/* ---- tool_text.c: words and numbers ---- */

/* "kvhoist-l2: ..." and a newline, to stderr. */
void kvh_tool_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The log's lines, in the same way. */
void kvh_tool_log(void *ignored, enum kvh_log_level level, const char *line);
/* Of a negative errno. */
int kvh_tool_status(int err);

double kvh_tool_rate(uint64_t bytes, uint64_t ns); /* GB/s */
const char *kvh_tool_hex(const void *bytes, size_t n, char *text);
/* "HASH-RANK-GROUP", as the fs adapter calls its files. */
#define KVH_TOOL_KEY_TEXT 52u
const char *kvh_tool_key_text(const struct kvh_key *key, char text[KVH_TOOL_KEY_TEXT]);

/* False: it is none. */
bool kvh_tool_key_parse(const char *text, struct kvh_tool_key *key);
bool kvh_tool_space_parse(const char *text, struct kvh_tool_space *space);
/* What was not given matches all. */
bool kvh_tool_matches(const struct kvh_tool_opts *opts, const struct kvh_frame_header *header);

void kvh_tool_put(json_t *object, const char *name, uint64_t value);
void kvh_tool_put_text(json_t *object, const char *name, const char *text);
/* Prints and frees it. An exit status. */
int kvh_tool_json(json_t *object, int status);

/* ---- tool_scan.c: a pass over all frames ---- */

struct kvh_tool_slot {
	uint32_t file; /* index in kvh_tool.files */
	uint32_t segment, slot;
	uint64_t offset; /* in the file */
	uint64_t bytes;
	const struct kvh_frame_header *header; /* during the visit. NULL: damaged, or unread */
	const char *fault;                     /* a static text; NULL: sound */
	bool named; /* the header was read: the next two are what it says */
	struct kvh_key key;
	uint64_t sequence;
};

struct kvh_tool_totals {
	uint64_t slots;         /* looked at */
	uint64_t frames, bytes; /* sound ones */
	uint64_t blank;         /* slots without a frame */
	uint64_t damaged;
	/* Was damaged when it was first read, and was another, or sound, the second
	 * time: somebody has the file open, and changes it. */
	uint64_t changed;
	uint64_t ns;
};

/* Reads each slot's header, or with `whole` the frame, and verifies it. Visits the
 * sound and the damaged ones, one at a time, in no order; damaged ones last and in
 * order, after they were read a second time, a second later where somebody has the
 * file open. 0 or -ENOMEM: logged. */
int kvh_tool_scan(struct kvh_tool *tool, bool whole,
		  void (*visit)(void *arg, const struct kvh_tool_slot *slot), void *arg,
		  struct kvh_tool_totals *totals);

#ifdef __cplusplus
}
#endif
#endif
