# The front door; CMakePresets.json holds the builds. Needs make, a compiler and
# git; everything else is installed by the targets that need it.

PREFIX    ?= /usr/local
# CI sets it; a warning must not stop a user with another compiler.
KVH_WERROR ?= OFF
JOBS      ?= $(shell nproc)

RELEASE  := build/release
DEMO_CMD := $(RELEASE)/kvhoist-bench demo
# For example DEMO_ARGS=--help.
DEMO_ARGS ?=

# Says only what was found, unless it fails.
CONFIGURE = mkdir -p build; \
	cmake --preset $(1) -DKVH_WERROR=$(KVH_WERROR) >build/$(1).log || \
		{ cat build/$(1).log; exit 1; }; \
	sed -n 's/^-- kvhoist/kvhoist/p' build/$(1).log
BUILD     = cmake --build --preset $(1) --parallel $(JOBS)
TEST      = ctest --preset $(1) --parallel $(JOBS)

.DEFAULT_GOAL := all
.PHONY: all demo test asan tsan torture crash crash-guest install format check-format clean help deps deps-ci

all: deps
	@$(call CONFIGURE,release)
	@$(call BUILD,release)
	@cmake/device-status.sh $(RELEASE)

demo: deps
	@$(call CONFIGURE,release)
	@$(call BUILD,release) --target kvhoist-bench
	@cmake/device-status.sh $(RELEASE)
	@$(DEMO_CMD) $(DEMO_ARGS)

test: all
	@$(call TEST,release)

asan: deps
	@$(call CONFIGURE,asan)
	@$(call BUILD,asan)
	@$(call TEST,asan)

tsan: deps-ci
	@$(call CONFIGURE,tsan)
	@$(call BUILD,tsan)
	@$(call TEST,tsan)

# Hours. What is random has its seed printed; KVHOIST_SEED=N repeats it.
TORTURE_SCHEDULES ?= 1000000
SIM = $(RELEASE)/tests/kvhoist-sim --jobs $(JOBS)

torture: deps-ci
	@$(call CONFIGURE,release)
	@$(call BUILD,release) --target kvhoist-sim soak_test engine_stress_test
	@$(call CONFIGURE,tsan)
	@$(call BUILD,tsan) --target engine_stress_test l1_stress_test mover_stress_test
	@seed=$${KVHOIST_SEED:-$$(date +%s)000000}; \
	echo "== $(TORTURE_SCHEDULES) schedules: KVHOIST_SEED=$$seed"; \
	$(SIM) --seed $$seed --count $(TORTURE_SCHEDULES) && \
	echo "== $(TORTURE_SCHEDULES) schedules: 0 violations" && \
	$(SIM) --seed $$seed --count 6000 --completions-fail
	@KVHOIST_LONG=1 tests/crash.sh $(RELEASE)/tests 'soak|engine_stress'
	@KVHOIST_LONG=1 $$(setarch -R true 2>/dev/null && echo setarch -R) \
		tests/crash.sh build/tsan/tests '(engine|l1|mover)_stress'

# The long forms, with all invariants checked. They print their seeds, and verdicts:
# KVH_SEED=N repeats a run, CRASH=REGEX runs some.
CRASH ?= l2_crash|l2_nvme_(power|kill|mutate|ring|fault|engine)|l2_real_disk

crash: deps-ci
	@$(call CONFIGURE,debug)
	@$(call BUILD,debug)
	@KVHOIST_LONG=1 tests/crash.sh build/debug/tests '$(CRASH)'

crash-guest: deps-ci
	@$(call CONFIGURE,debug)
	@$(call BUILD,debug) --target kvhoist_guest
	@KVHOIST_LONG=1 tests/guest/run.sh build/debug/tests/kvhoist_guest || \
		{ rc=$$?; [ $$rc = 77 ] || exit $$rc; }

install: all
	@cmake --install $(RELEASE) --prefix "$(abspath $(PREFIX))"

format check-format:
	@.ci/$@

clean:
	rm -rf build

deps:
	@cmake/install-deps.sh

deps-ci:
	@cmake/install-deps.sh --ci

help:
	@echo 'make                  build into $(RELEASE)/'
	@echo 'make demo             build, then store, evict, reload and verify KV cache'
	@echo 'make test             build, then run all tests'
	@echo 'make asan             the tests under AddressSanitizer and UBSan'
	@echo 'make tsan             the tests under ThreadSanitizer (clang)'
	@echo 'make torture          simulation, races and a soak, for hours'
	@echo 'make crash            kills, power cuts, damage and faults under L2, for minutes'
	@echo 'make crash-guest      the same in a kernel of its own, under qemu'
	@echo 'make install          install into PREFIX=$(PREFIX)'
	@echo 'make format           rewrite the sources with clang-format 14'
	@echo 'make check-format     fail where clang-format 14 would change something'
	@echo 'make clean            remove build/'
	@echo 'make help             this text'
	@echo
	@echo 'Needs make, a C and C++ compiler and git. Missing packages of Debian 12 or'
	@echo 'Ubuntu 24.04 are installed, as root or through sudo; where that cannot be,'
	@echo 'they are named. A CUDA toolkit >= 12.8 (PATH or /usr/local/cuda) is used if'
	@echo 'there is one. Variables: PREFIX, DESTDIR, JOBS, DEMO_ARGS, KVH_WERROR=ON.'
