#!/bin/bash
# Runs the test programs whose name matches, one after another, and says at the end
# what they came to. With KVHOIST_LONG=1 in the environment: their long form.
#
#   crash.sh DIRECTORY REGEX [ARGS...]    1: one of them failed
set -uo pipefail

[ $# -ge 2 ] || { sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
dir=$1 names=$2
shift 2

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=
ran=0
for program in "$dir"/*_test; do
	name=$(basename "$program" _test)
	[[ $name =~ ^($names)$ ]] || continue
	ran=$((ran + 1))
	echo "== $name"
	"$program" --gtest_brief=1 "$@" | tee -a "$log" || failed="$failed $name"
done
echo "== verdicts"
grep '^verdict: ' "$log"
[ $ran -gt 0 ] || { echo "crash: no program matches $names"; exit 1; }
[ -z "$failed" ] || { echo "crash: FAILED:$failed"; exit 1; }
echo "crash: PASSED"
