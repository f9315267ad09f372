// SPDX-License-Identifier: Apache-2.0
//
// kvhoist-sim: many schedules, or one again. See docs/testing.md.
#include "host/log.h"
#include "sim_schedule.h"

#include <argp.h>
#include <csignal>
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

/* So that what AddressSanitizer finds has its seed, too: say_seed. */
extern "C" __attribute__((visibility("default"))) const char *__asan_default_options()
{
	return "abort_on_error=1";
}

namespace
{

struct Args {
	uint64_t seed = 0, count = 1000, ops = 300, jobs = 1;
	int mutant = sim::NONE;
	bool trace = false, hash = false, completions_fail = false;
};

uint64_t current_seed;

/* Of what died; of one that stands still, too. */
void say_seed(int sig)
{
	char text[64];
	const int n = snprintf(text, sizeof(text), "sim: it was seed %llu\n",
			       static_cast<unsigned long long>(current_seed));

	(void)!write(2, text, static_cast<size_t>(n));
	if (sig != SIGABRT)
		_exit(3);
}

constexpr unsigned HANGS_S = 300; /* a schedule takes milliseconds */

int parse_mutant(const char *name, argp_state *state)
{
	for (int m = 0; m < sim::MUTANTS; m++)
		if (strcmp(name, sim::mutant_name(m)) == 0)
			return m;
	argp_failure(state, 2, 0, "there is no mutant '%s'", name);
	return 0;
}

error_t parse(int key, char *arg, argp_state *state)
{
	Args &args = *static_cast<Args *>(state->input);

	switch (key) {
	case 's': args.seed = strtoull(arg, nullptr, 10); return 0;
	case 'n': args.count = strtoull(arg, nullptr, 10); return 0;
	case 'o': args.ops = strtoull(arg, nullptr, 10); return 0;
	case 'j': args.jobs = strtoull(arg, nullptr, 10); return 0;
	case 'm': args.mutant = parse_mutant(arg, state); return 0;
	case 't': args.trace = true; return 0;
	case 'c': args.completions_fail = true; return 0;
	case 'h': args.hash = true; return 0;
	default: return ARGP_ERR_UNKNOWN;
	}
}

/* Every jobs-th seed from `first` on. 0, or 1: one was wrong. */
int run_some(const Args &args, uint64_t first)
{
	for (uint64_t i = first; i < args.count; i += args.jobs) {
		sim::Plan plan;

		plan.seed = current_seed = args.seed + i;
		plan.ops = args.ops;
		plan.trace = args.trace;
		plan.completions_fail = args.completions_fail;
		alarm(HANGS_S);
		const sim::Result result = sim::run_schedule(plan);
		if (args.hash)
			printf("%llu %016llx\n", sim::ull(plan.seed), sim::ull(result.hash));
		if (result.wrong.empty())
			continue;
		printf("seed %llu: %s\n", sim::ull(plan.seed), result.wrong.c_str());
		return 1;
	}
	if (args.completions_fail)
		printf("%llu failures\n", sim::ull(sim::guards().failed));
	return 0;
}

int run_all(const Args &args)
{
	int wrong = 0, status;

	for (uint64_t j = 0; j < args.jobs; j++) {
		const pid_t pid = fork();

		if (pid == 0) {
			const int rc = run_some(args, j);

			fflush(stdout);
			_exit(rc);
		}
	}
	while (wait(&status) > 0)
		wrong |= !WIFEXITED(status) || WEXITSTATUS(status) != 0;
	return wrong;
}

} // namespace

int main(int argc, char **argv)
{
	const argp_option options[] = {
		{"seed", 's', "N", 0, "of the first schedule", 0},
		{"count", 'n', "N", 0, "schedules (1000)", 0},
		{"ops", 'o', "N", 0, "operations a schedule (300)", 0},
		{"jobs", 'j', "N", 0, "processes (1)", 0},
		{"mutant", 'm', "NAME", 0, "leave a guard of the library out", 0},
		{"completions-fail", 'c', nullptr, 0,
		 "what completions ask for fails, often; prints how often", 0},
		{"trace", 't', nullptr, 0, "print every step", 0},
		{"hash", 'h', nullptr, 0, "print what each schedule's steps sum up to", 0},
		{nullptr, 0, nullptr, 0, nullptr, 0},
	};
	const argp parser = {options, parse,   nullptr, "Simulates the engine.",
			     nullptr, nullptr, nullptr};
	Args args;

	argp_parse(&parser, argc, argv, 0, nullptr, &args);
	setvbuf(stdout, nullptr, _IOLBF, 0); /* an abort loses nothing */
	/* L1's tables are large and mostly never touched: as in a process that opens one
	 * engine they are fresh memory, and not what calloc has to clear. */
	mallopt(M_MMAP_THRESHOLD, 1 << 20);
	signal(SIGABRT, say_seed);
	signal(SIGALRM, say_seed);
	kvh_log_set(
		[](void *arg, kvh_log_level, const char *line) {
			if (static_cast<Args *>(arg)->trace)
				printf("             log: %s\n", line);
		},
		&args, KVH_LOG_WARN);
	sim::guards().mutant = static_cast<sim::Mutant>(args.mutant);
	return args.jobs > 1 ? run_all(args) : run_some(args, 0);
}
