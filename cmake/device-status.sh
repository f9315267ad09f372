#!/bin/sh
# Says in one line which device the build in $1 will use on this machine.
set -eu

cuda=$(cat "$1/cuda.status" 2>/dev/null || echo unknown)
gpu=
# The device node is there even where nvidia-smi is not, as in containers.
if [ -e /dev/nvidia0 ] || [ -e /dev/dxg ]; then
	gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1) || gpu=
	gpu=${gpu:-unnamed}
fi
case $cuda in
CUDA*)
	if [ -n "$gpu" ]; then
		echo "device: $cuda, GPU used ($gpu)"
	else
		echo "device: $cuda code built, but no GPU here: host device used"
	fi
	;;
*) echo "device: built without CUDA ($cuda): host device used" ;;
esac
