#!/bin/bash
# Builds the test VM into out/vm; when it is there and up to date, says so and ends.
#
#	build.sh [DIR]      DIR: where to build (default out/vm in this repository)
#
# Two stages, each made in a temporary directory, renamed when complete and stamped last: killed at any point,
# the next run starts the unfinished stage afresh.
#	DIR/base   from Debian packages alone (base.sh), minutes
#	DIR/image  kernel, initrd, root and data disks (image.sh and the files in rootfs/ and initrd/), seconds
# Needs root, 3 GB of disk and a Debian mirror; runs on Debian 12 and 13. VM_MIRROR names the mirror; else it is
# the one that apt uses.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
out=$(realpath -m "${1:-$here/../../out/vm}")
die() { printf 'vm: %s\n' "$@" >&2; exit 1; }

if [ -z "${VM_CONTAINED:-}" ]; then
	[ "$(id -u)" = 0 ] || die "building the VM needs root: it makes Debian trees and mounts in them" "hint: sudo make vm"
	mkdir -p "$out"
	# Contained, removing a half-built tree can never reach what was mounted in it.
	VM_CONTAINED=1 exec "$here/contain" "$0" "$out"
fi

# Shared by every run of the VM, exclusive here.
exec 9>"$out/lock"
if ! flock -n 9; then
	echo "vm: waiting for another build, or for a VM that is running, to end"
	flock 9
fi

# fingerprint DIR FILE...: the files' names, sizes and times, enough to notice a truncated or replaced one.
fingerprint() { (cd "$1" && shift && stat -c '%n %s %Y' -- "$@"); }
digest() { sha256sum | cut -d' ' -f1; }

# stage NAME KEY SCRIPT FILE...: run SCRIPT on an empty directory unless DIR/NAME is stamped with KEY and whole.
stage() {
	local name=$1 key=$2 script=$3
	shift 3
	local stamp=$out/$name.stamp
	if [ -d "$out/$name" ] && { echo "$key"; fingerprint "$out/$name" "$@"; } 2>/dev/null | cmp -s - "$stamp"; then
		return
	fi
	built=yes
	rm -rf "$stamp" "$out/$name" "$out/$name.new"
	mkdir -p "$out/$name.new"
	"$script" "$out/$name.new" || exit
	mv "$out/$name.new" "$out/$name"
	{ echo "$key"; fingerprint "$out/$name" "$@"; } >"$stamp.new"
	sync -f "$stamp.new"
	mv "$stamp.new" "$stamp"
}

missing=()
for program in mmdebstrap mount; do command -v "$program" >/dev/null || missing+=("$program"); done
if ((${#missing[@]})); then
	echo "vm: installing ${missing[*]}"
	apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "${missing[@]}" >"$out/apt.log" 2>&1 ||
		die "cannot install ${missing[*]}: $(tail -n 3 "$out/apt.log")" "hint: run apt-get update first"
	rm "$out/apt.log"
fi

built=
base_key=$(digest <"$here/base.sh")
image_key=$({ echo "$base_key"; cat "$here/image.sh"; cd "$here" && find rootfs initrd -type f | LC_ALL=C sort | xargs sha256sum; } | digest)
stage base "$base_key" "$here/base.sh" guest.tar modules.tar vmlinux tools/usr/bin/qemu-system-x86_64 tools/usr/libexec/virtiofsd
stage image "$image_key" "$here/image.sh" initrd.cpio root.img data.img
if [ -n "$built" ]; then
	echo "vm: ready in $out ($(du -sh "$out" | cut -f1))"
else
	echo "vm: up to date"
fi
