#!/bin/bash
# Boots a kernel of its own under qemu and runs a test program in it, on block
# devices that lose, fail and log what they are given (device mapper's log-writes
# and flakey).
#
#   run.sh PROGRAM [ARGS...]    0 all well, 1 a test failed, 77 something is missing
#
# Needs qemu-system-x86, busybox-static and cpio, and a kernel with its modules: the
# distribution's package linux-image-amd64 (Debian), which is downloaded and
# unpacked, not installed, below build/guest. KVHOIST_GUEST_KERNEL names a directory
# with boot/vmlinuz-* and lib/modules to use instead. KVHOIST_GUEST_ACCEL=kvm is
# faster than the default, tcg, which needs nothing of the machine.
set -euo pipefail

modules='dm-mod dm-flakey dm-log-writes brd'
dir=${KVHOIST_GUEST_DIR:-build/guest}
accel=${KVHOIST_GUEST_ACCEL:-tcg}
limit=${KVHOIST_GUEST_SECONDS:-900} # a guard against a guest that hangs

skip() {
	echo "guest: SKIPPED: $*"
	exit 77
}

kernel_find() {
	kernel=${KVHOIST_GUEST_KERNEL:-$dir/kernel}
	ls "$kernel"/boot/vmlinuz-* >/dev/null 2>&1 && return
	command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
		skip "no apt-get to download a kernel with; KVHOIST_GUEST_KERNEL=DIR names one"
	local package
	package=$(apt-cache depends linux-image-amd64 2>/dev/null |
		awk '/Depends: linux-image-/ { print $2; exit }')
	[ -n "$package" ] || skip "no package linux-image-amd64 here"
	mkdir -p "$dir/download"
	(cd "$dir/download" && apt-get -q download "$package") >"$dir/download.log" 2>&1 ||
		skip "cannot download $package: $(tail -n 1 "$dir/download.log")"
	rm -rf "$kernel"
	dpkg-deb -x "$dir"/download/"$package"_*.deb "$kernel"
	rm -rf "$dir/download"
}

# The program, with the libraries that it is linked to, where it looks for them.
bundle() {
	local file
	cp "$1" "$root/program"
	ldd "$1" | grep -o '/[^ ]*' | sort -u | while read -r file; do
		mkdir -p "$root$(dirname "$file")"
		cp -L "$file" "$root$file"
	done
}

initramfs() {
	root=$(mktemp -d)
	trap 'rm -rf "$root"' EXIT
	mkdir -p "$root"/{bin,dev,proc,sys,tmp,modules}
	cp "$(command -v busybox)" "$root/bin/busybox"
	local m file
	for m in $modules; do
		file=$(find "$kernel/lib/modules" -name "$m.ko" | head -n 1)
		[ -n "$file" ] || skip "the kernel has no module $m.ko"
		cp "$file" "$root/modules/"
	done
	bundle "$1"
	cat >"$root/init" <<-END
		#!/bin/busybox sh
		/bin/busybox mount -t proc proc /proc
		/bin/busybox mount -t sysfs sys /sys
		/bin/busybox mount -t devtmpfs dev /dev
		/bin/busybox mount -t tmpfs tmp /tmp
		for m in $modules; do
			o=
			[ \$m = brd ] && o='rd_nr=2 rd_size=131072'
			/bin/busybox insmod /modules/\$m.ko \$o
		done
		export GTEST_COLOR=no KVHOIST_GUEST=1 KVHOIST_LONG=${KVHOIST_LONG:-0}
		${KVHOIST_SEED:+export KVHOIST_SEED=$KVHOIST_SEED}
		/program ${*:2}
		echo "guest: exit \$?"
		/bin/busybox poweroff -f
	END
	chmod +x "$root/init"
	(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$dir/initramfs.gz"
}

[ $# -ge 1 ] || { sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$dir"
for tool in qemu-system-x86_64 busybox cpio; do
	command -v $tool >/dev/null || skip "no $tool (packages qemu-system-x86, busybox-static, cpio)"
done
ldd "$(command -v busybox)" >/dev/null 2>&1 && skip "busybox is not static (package busybox-static)"
kernel_find
initramfs "$@"
timeout "$limit" qemu-system-x86_64 -accel "$accel" -m 1024 -smp 2 -display none \
	-serial stdio -no-reboot -kernel "$kernel"/boot/vmlinuz-* -initrd "$dir/initramfs.gz" \
	-append "console=ttyS0 quiet panic=-1 no_timer_check" </dev/null | sed -u 's|\r$||' | tee "$dir/log"
grep -q '^guest: exit 0$' "$dir/log" && { echo "guest: PASSED"; exit 0; }
echo "guest: FAILED: see $dir/log; its seed repeats it, as KVHOIST_SEED=N"
exit 1
