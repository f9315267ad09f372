#!/bin/sh
# Installs the distribution packages that kvhoist needs on Debian 12 and Ubuntu
# 24.04, and only those that are missing: with nothing missing there is no apt
# call, so that a second run works without network and without root.
#
#   install-deps.sh         what build, tests and demo need
#   install-deps.sh --ci    also what CI needs: clang, its sanitizers, clang-format,
#                           and what tests and measurements use where it is there
#   install-deps.sh --list  print the packages (with --ci: all), install nothing
# Lists of packages are meant to split:
# shellcheck disable=SC1091,SC2086
set -eu

packages='gcc g++ libc6-dev make cmake ninja-build pkg-config
	liburing-dev libisal-dev libnuma-dev libblkid-dev libssl-dev libjansson-dev
	libgtest-dev libgmock-dev'

list=0
for arg; do
	case $arg in
	--ci)
		# The sanitizer runtimes are a package of their own, named after
		# the distribution's clang.
		id=$(. /etc/os-release 2>/dev/null && echo "${ID:-}${VERSION_ID:-}") || id=
		case $id in
		ubuntu24.04) rt=libclang-rt-18-dev ;;
		*) rt=libclang-rt-14-dev ;;
		esac
		packages="$packages git clang $rt clang-format-14 fio spin"
		;;
	--list) list=1 ;;
	*)
		echo "usage: $0 [--ci] [--list]" >&2
		exit 2
		;;
	esac
done

if [ $list = 1 ]; then
	printf '%s\n' $packages
	exit 0
fi

if ! command -v dpkg-query >/dev/null 2>&1; then
	echo "deps: not a Debian system, packages not checked; needed there:" $packages
	exit 0
fi

missing=
for p in $packages; do
	case $(dpkg-query -W -f='${db:Status-Status} ' "$p" 2>/dev/null || true) in
	*installed*) ;;
	*) missing="$missing $p" ;;
	esac
done
[ -n "$missing" ] || exit 0

line="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" = 0 ]; then
	as_root=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
	as_root='sudo -n'
else
	echo "deps: packages are missing, and neither root nor sudo without a password" >&2
	echo "deps: is at hand. Install them and try again:" >&2
	echo "    sudo $line" >&2
	exit 1
fi

echo "deps: installing$missing"
# A machine that has just booted may hold the lock for its own updates.
apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300"
if ! $apt -q update || ! $apt -q install -y --no-install-recommends $missing; then
	echo "deps: apt-get failed. Install the packages by hand and try again:" >&2
	echo "    $line" >&2
	exit 1
fi
