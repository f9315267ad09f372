#!/bin/bash
# All GPU tests and measurements in one go, in under nine minutes.
#
#   bench/gpu.sh bundle DIR [BUILD]   where it was built (build/release): the
#                                     programs and their libraries
#   bench/gpu.sh run DIR OUT          where the GPU is: needs DIR only, writes
#                                     OUT/report.md
#
# A bundle needs nothing of the other machine but a C library that is not older
# (its own libstdc++ asks for glibc 2.36) and the driver.
# Exit status of run: 0 all passed, 1 something failed, 77 there is no GPU.
set -euo pipefail

# The programs with tests on a GPU, which have "cuda" in their names; the other
# tests need none. A test that is skipped here has failed.
tests=(device_test pack_gpu_test mover_test capture_cuda_gpu_test)
filter='*cuda*:Cuda*'
models=(llama-3.1-8b llama-3.1-70b-tp8 qwen3-32b deepseek-v3 gpt-oss-120b)
limit=530 # seconds for everything

bundle()
{
	local dir=$1 build=$2 program
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
	cp "$0" "$dir/gpu.sh"
	du -sh "$dir"
}

# A command into the report, as a block with its exit status.
failed=0
step()
{
	local title=$1 begun=$SECONDS rc=0 left=$((limit - SECONDS))
	shift
	{
		printf '\n## %s\n\n```\n$ %s\n' "$title" "$*"
		if [ $left -lt 5 ]; then
			echo 'no time is left'
			rc=1
		else
			timeout -k 5 $((left < 150 ? left : 150)) "$@" >"$out/step.log" 2>&1 || rc=$?
			head -c 4000 "$out/step.log"
			[ "$(stat -c %s "$out/step.log")" -le 8000 ] || printf '\n[..]\n'
			tail -c +4001 "$out/step.log" | tail -c 4000
		fi
		printf '```\n\nexit status %d, %d s\n' $rc $((SECONDS - begun))
	} >>"$out/report.md"
	[ $rc = 0 ] || failed=1
	echo "$title: $rc, $((SECONDS - begun)) s"
}

# A step that runs the GPU tests of a program, behind the given words, as of env.
step_test()
{
	local title=$1 program=$2
	shift 2
	step "$title" "$@" "$dir/$program" --gtest_brief=1 --gtest_filter="$filter"
	if grep -q SKIPPED "$out/step.log" || ! grep -q 'PASSED  ] [1-9]' "$out/step.log"; then
		echo 'tests were skipped, or none has passed' | tee -a "$out/report.md"
		failed=1
	fi
}

# 77 where there is no GPU; one that the library does not open is a failure.
probe()
{
	"$dir/device_test" --gtest_filter='*SaysWhatItIs/cuda' >"$out/step.log" 2>&1 || true
	! grep -q SKIPPED "$out/step.log" || if nvidia-smi -L 2>/dev/null | grep -q GPU; then
		echo 'there is a GPU, but the library does not open it:'
		cat "$out/step.log"
		exit 1
	else
		echo "there is no GPU: $(grep -m1 -E '^cuda|^no cuda' "$out/step.log")"
		exit 77
	fi
}

run()
{
	local program model sanitizer
	mkdir -p "$2"
	dir=$(cd "$1" && pwd) out=$(cd "$2" && pwd)
	export LD_LIBRARY_PATH="$dir/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
	probe
	{
		echo "# GPU run of $(date -u +%Y-%m-%d)"
		echo
		nvidia-smi --query-gpu=name,driver_version,memory.total,pcie.link.gen.max \
			--format=csv 2>&1 || echo 'no nvidia-smi'
		echo "Linux $(uname -r), $(nproc) CPUs"
	} >"$out/report.md"
	for program in "${tests[@]}"; do
		step_test "$program" "$program"
	done
	step pack "$dir/kvhoist-bench" pack --device cuda --svg "$out/pack.svg"
	# What changes the order of things in CUDA.
	for setting in CUDA_LAUNCH_BLOCKING=1 CUDA_DEVICE_MAX_CONNECTIONS=1 \
		CUDA_MODULE_LOADING=EAGER; do
		step_test "mover_test, $setting" mover_test env $setting
	done
	for model in "${models[@]}"; do
		step "replay $model" "$dir/kvhoist-bench" replay --device cuda --model "$model" \
			--scale 0.1 --trace gen:1 --requests 40 --l1 4G \
			--l2 "nvme:$out/kv.bin,size=8G"
		rm -f "$out/kv.bin"
	done
	step 'replay at full size' "$dir/kvhoist-bench" replay --device cuda --scale 1 \
		--trace gen:1 --requests 20 --l1 8G
	step demo "$dir/kvhoist-bench" demo
	# Last, as it is slow. There is no shared memory whose races could be looked for.
	sanitizer=$(command -v compute-sanitizer || true)
	if [ -n "$sanitizer" ]; then
		for program in mover_test pack_gpu_test; do
			step_test "memcheck of $program" $program env KVH_PROPERTY_CASES=20 \
				"$sanitizer" --tool memcheck --error-exitcode 3
		done
	fi
	rm -f "$out/step.log"
	echo "report: $out/report.md, $SECONDS s"
	exit $failed
}

case ${1:-} in
bundle) bundle "${2:?DIR}" "${3:-$(dirname "$0")/../build/release}" ;;
run) run "${2:?DIR}" "${3:?OUT}" ;;
*)
	sed -n '2,11s/^# \{0,1\}//p' "$0"
	exit 2
	;;
esac
