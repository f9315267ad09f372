#!/bin/bash
# All GPU tests and measurements in one go, in under nine minutes.
#
#   bench/gpu.sh bundle DIR [BUILD]   where it was built (build/release): the
#                                     programs and their libraries, 64 MiB at most
#   bench/gpu.sh run DIR OUT          where the GPU is: needs DIR only, writes
#                                     OUT/report.md, JSON, plots, and OUT/logs
#
# A bundle needs nothing of the other machine but a C library that is not older
# (its own libstdc++ asks for glibc 2.36) and the driver. cuBLAS and compute-sanitizer
# are used where they are there.
# Exit status of run: 0 all passed, 1 something failed, 77 there is no GPU.
set -euo pipefail

# The programs with tests on a GPU, which have "cuda" in their names; the other
# tests need none. A test that is skipped here has failed, but for these reasons.
tests=(device_test arena_gpu_test pack_gpu_test frames_gpu_test mover_test mover_layers_test
	capture_cuda_gpu_test context_cuda_gpu_test pages_cuda_gpu_test death_cuda_gpu_test
	engine_devices_test)
filter='*cuda*:Cuda*'
reasons='^two (GPUs|devices) are needed|^kernels take turns'
# Of mover_test, where it runs again and again.
mover_again='MoverBytes.*ByteExact/cuda*:MoverBytes.PartsOf*/cuda*'
models=(llama-3.1-8b deepseek-v3)
limit=${KVH_GPU_SECONDS:-530} # for everything
most_mib=64

bundle()
{
	local dir=$1 build=$2 program size
	mkdir -p "$dir/lib"
	cp "$build/kvhoist-bench" "$dir/"
	for program in "${tests[@]}"; do
		cp "$build/tests/$program" "$dir/"
	done
	# The C library and its loader are the machine's own.
	ldd "$dir"/kvhoist-bench "$dir"/*_test | awk '$2 == "=>" && $3 ~ /^\// {print $3}' |
		sort -u | grep -vE '/(libc|libm|ld-linux[^/]*|libpthread|libdl|librt)\.so' |
		xargs cp -Lt "$dir/lib"
	strip --strip-debug "$dir"/kvhoist-bench "$dir"/*_test
	strip --strip-unneeded "$dir"/lib/*
	cp "$0" "$dir/gpu.sh"
	size=$(du -sm "$dir" | cut -f1)
	echo "$dir: $size MiB"
	[ "$size" -le $most_mib ] || { echo "more than $most_mib MiB" >&2; exit 1; }
}

# A command into the report, as a block with its exit status, within so many
# seconds: so that one that is slow takes nothing from those behind. All that it
# prints is in a log of its own; the report has the beginning and the end.
failed=0 steps=0
step()
{
	local title=$1 most=$2 begun=$SECONDS rc=0 left=$((limit - SECONDS))
	shift 2
	steps=$((steps + 1))
	log=$out/logs/$(printf '%02d-%s.log' $steps "${title//[^A-Za-z0-9._=-]/_}")
	: >"$log"
	if [ $left -lt 5 ]; then
		echo 'no time is left' >"$log"
		rc=1
	else
		timeout -k 15 $((left < most ? left : most)) "$@" >"$log" 2>&1 || rc=$?
		[ $rc != 124 ] || echo "cut off after $((SECONDS - begun)) s" >>"$log"
	fi
	{
		printf '\n## %s\n\n```\n$ %s\n' "$title" "$*"
		head -c 2000 "$log"
		[ "$(stat -c %s "$log")" -le 8000 ] || printf '\n[.. logs/%s ..]\n' "${log##*/}"
		tail -c +2001 "$log" | tail -c 6000
		printf '```\n\nexit status %d, %d s\n' $rc $((SECONDS - begun))
	} >>"$out/report.md"
	[ $rc = 0 ] || failed=1
	echo "$title: $rc, $((SECONDS - begun)) s"
}

# cuBLAS of the toolkit or of pip's packages, where the linker does not look.
cublas_dirs()
{
	local dir
	{
		echo /usr/local/cuda/lib64
		python3 -c 'import sys; print(*[p + "/nvidia/" + d + "/lib" for p in sys.path
			for d in ("cu13", "cublas")], sep="\n")' 2>/dev/null || true
	} | while read -r dir; do
		! ls "$dir"/libcublas.so.1[23] >/dev/null 2>&1 || echo "$dir"
	done
}

# A step that runs the GPU tests of a program, behind the given words, as of env.
step_test()
{
	local title=$1 most=$2 program=$3 skipped allowed
	shift 3
	step "$title" "$most" "$@" "$dir/$program" --gtest_brief=1 \
		--gtest_filter="${only:-$filter}"
	skipped=$(grep -c ': Skipped$' "$log" || true)
	allowed=$(grep -cE "$reasons" "$log" || true)
	if [ "$skipped" -gt "$allowed" ] ||
		{ [ "$skipped" = 0 ] && ! grep -q 'PASSED  ] [1-9]' "$log"; }; then
		echo 'tests were skipped, or none has passed' | tee -a "$out/report.md"
		failed=1
	elif [ "$skipped" -gt 0 ]; then
		grep -E "$reasons" "$log" | sort | uniq -c
	fi
}

# 77 where there is no GPU; one that the library does not open is a failure.
probe()
{
	log=$out/logs/00-probe.log
	"$dir/device_test" --gtest_filter='*SaysWhatItIs/cuda' >"$log" 2>&1 || true
	! grep -q SKIPPED "$log" || if nvidia-smi -L 2>/dev/null | grep -q GPU; then
		echo 'there is a GPU, but the library does not open it:'
		cat "$log"
		exit 1
	else
		echo "there is no GPU: $(grep -m1 -E '^cuda|^no cuda' "$log")"
		exit 77
	fi
}

head_of_report()
{
	echo "# GPU run of $(date -u +%Y-%m-%d)"
	echo
	nvidia-smi --query-gpu=name,driver_version,memory.total,pcie.link.gen.max,pcie.link.width.max \
		--format=csv 2>&1 || echo 'no nvidia-smi'
	echo "Linux $(uname -r), $(nproc) CPUs, $(awk '/MemTotal/ {print int($2 / 1048576)}' \
		/proc/meminfo) GiB"
	{ ldconfig -p 2>/dev/null | grep -oE 'libcublas\.so\.[0-9]+' | sort -u; cublas_dirs; } |
		grep . || echo 'no cuBLAS'
}

run_tests()
{
	local program setting
	for program in "${tests[@]}"; do
		step_test "$program" 40 "$program"
	done
	# What changes the order of things in CUDA.
	for setting in CUDA_LAUNCH_BLOCKING=1 CUDA_DEVICE_MAX_CONNECTIONS=1 \
		CUDA_MODULE_LOADING=LAZY CUDA_MODULE_LOADING=EAGER; do
		for program in mover_test frames_gpu_test pages_cuda_gpu_test; do
			only=
			[ $program != mover_test ] || only=$mover_again
			step_test "$program $setting" 15 "$program" env $setting
		done
	done
	only=
}

run_pack()
{
	step pack 260 "$dir/kvhoist-bench" pack --device cuda --json="$out/pack.json" \
		--csv="$out/pack.csv" --svg "$out/pack.svg" --svg-load "$out/load.svg"
}

run_replays()
{
	local model
	# The rate of L2 alone, and then what a replay gets of it and of the link.
	step 'l2 alone' 25 "$dir/kvhoist-bench" l2 --l2 "nvme:$out/kv.bin,size=4G" --no-fio \
		--pairs 3 --size 2M,32M --mode store,load --quiet
	for model in "${models[@]}"; do
		step "replay $model" 15 "$dir/kvhoist-bench" replay --device cuda --model "$model" \
			--scale 0.1 --trace gen:1 --requests 40 --l1 4G \
			--l2 "nvme:$out/kv.bin,size=8G" --quiet --json
		cp "$log" "$out/replay-$model.json"
		rm -f "$out/kv.bin"
	done
	step 'replay at full size' 30 "$dir/kvhoist-bench" replay --device cuda --scale 1 \
		--trace gen:1 --requests 20 --l1 8G
	# By as many threads as there may be; the pack step has pinned 32 GiB as an engine does.
	step pin 30 "$dir/kvhoist-bench" pin --device cuda --from 16 --samples 1
}

run_sanitizer()
{
	local sanitizer tool program
	sanitizer=$(command -v compute-sanitizer || true)
	if [ -z "$sanitizer" ]; then
		echo 'no compute-sanitizer' | tee -a "$out/report.md"
		return
	fi
	for tool in memcheck racecheck initcheck synccheck; do
		for program in pack_gpu_test mover_test; do
			only=
			[ $program != mover_test ] || only=$mover_again
			step_test "$tool $program" 20 "$program" env KVH_PROPERTY_CASES=5 \
				"$sanitizer" --tool "$tool" --error-exitcode 3
		done
	done
	only=
}

# Random layouts, as many as there is time for, some 25 s at a time; the tests before have
# had the first 500.
run_random()
{
	local first=500 cases=2000 before=$failed begun
	if [ $((limit - SECONDS)) -lt 40 ]; then
		echo 'random layouts: no time was left' | tee -a "$out/report.md"
		return
	fi
	failed=0
	only='*RandomLayouts/cuda'
	while [ $failed = 0 ] && [ $first -lt 1000000 ]; do
		begun=$SECONDS
		step_test "random layouts from $first on" 60 pack_gpu_test \
			env KVH_PROPERTY_CASES=$cases KVH_PROPERTY_FIRST=$first
		first=$((first + cases))
		[ $((limit - SECONDS)) -ge 40 ] || break
		cases=$((cases * 25 / (SECONDS - begun + 1)))
		[ $cases -gt 0 ] || cases=1
	done
	only=
	echo "random layouts: $first" | tee -a "$out/report.md"
	[ $before = 0 ] || failed=1
}

run()
{
	mkdir -p "$2/logs"
	dir=$(cd "$1" && pwd) out=$(cd "$2" && pwd)
	# compute-sanitizer is the toolkit's.
	export PATH="$PATH:/usr/local/cuda/bin" LD_LIBRARY_PATH
	LD_LIBRARY_PATH="$dir/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}:$(cublas_dirs | paste -sd:)"
	LD_LIBRARY_PATH=${LD_LIBRARY_PATH%:}
	export TMPDIR="${TMPDIR:-$out}"
	probe
	head_of_report >"$out/report.md"
	run_tests
	# What only a GPU can say, before what is slow.
	run_pack
	run_sanitizer
	run_replays
	step demo 60 "$dir/kvhoist-bench" demo --device cuda
	run_random
	echo "report: $out/report.md, $SECONDS s"
	exit $failed
}

case ${1:-} in
bundle) bundle "${2:?DIR}" "${3:-$(dirname "$0")/../build/release}" ;;
run) run "${2:?DIR}" "${3:?OUT}" ;;
*)
	sed -n '2,13s/^# \{0,1\}//p' "$0"
	exit 2
	;;
esac
