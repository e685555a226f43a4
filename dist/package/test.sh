#!/usr/bin/env bash
# Installs, upgrades, removes and purges the package of this machine's architecture in a fresh Debian tree, and has
# lintian look at every package. Needs root, debootstrap and the packages in dist/out.
#
#	test.sh [SUITE]      Debian's release, bookworm by default
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

suite=${1:-bookworm}
tree=$PWD/out/package-test-$suite
arch=$(dpkg --print-architecture)
deb=$(find dist/out -name "pvelxc_*_$arch.deb")
[[ -n $deb ]] || { echo "package test: there is no package (hint: make packages)" >&2; exit 1; }
count=0 failed=0
check() { # NAME COMMAND...
	local name=$1 output status
	shift
	count=$((count + 1))
	# Not in a condition: there, errexit would be off.
	set +e
	output=$(set -e; "$@" 2>&1)
	status=$?
	set -e
	if ((status == 0)); then echo "ok $count - $name"; else
		failed=$((failed + 1))
		echo "not ok $count - $name"
		sed 's/^/# /' <<<"$output"
	fi
}

for each in dist/out/*.deb; do
	check "lintian: $(basename "$each")" lintian --allow-root --fail-on error,warning,info "$each"
done

# The tree is kept between runs; the machine in it is a copy.
if [[ ! -e $tree.done ]]; then
	rm -rf "$tree"
	debootstrap --variant=minbase "$suite" "$tree" >"$tree.log" 2>&1 || { tail "$tree.log"; exit 1; }
	chroot "$tree" apt-get install -y -qq --no-install-recommends liblxc1 libseccomp2 man-db >>"$tree.log" 2>&1 ||
		chroot "$tree" apt-get install -y -qq --no-install-recommends liblxc1t64 libseccomp2 man-db >>"$tree.log" 2>&1
	touch "$tree.done"
fi
root=$(mktemp -d "$PWD/out/package-root.XXXXXX")
trap 'umount "$root/proc" 2>/dev/null; rm -rf --one-file-system "$root"' EXIT
cp -a --reflink=auto "$tree/." "$root/"
mount -t proc proc "$root/proc"
inside() { chroot "$root" env LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }
cp "$deb" "$root/pvelxc.deb"
# An older version for the upgrade: the same files under a lower number.
old=$(mktemp -d)
dpkg-deb -R "$deb" "$old/p"
sed -i 's/^Version: .*/Version: 0.0.0~before/' "$old/p/DEBIAN/control"
dpkg-deb --root-owner-group -b "$old/p" "$root/before.deb" >/dev/null
rm -rf "$old"

listing() { (cd "$root" && find etc usr var run -not -path 'var/lib/dpkg/*' -not -path 'var/log/*' -not -path 'var/cache/*' -not -path 'run/*' | sort); }
before=$(listing)

programs() {
	local program
	for program in $(make --no-print-directory programs); do [[ -x $root/usr/bin/$program ]] || { echo "no $program"; return 1; }; done
	inside pvelxc version | grep -F "pvelxc "
	inside containerd-shim-pvelxc-v2 -v | grep -F io.containerd.pvelxc.v2
	! inside ldd /usr/bin/pvelxc-monitor | grep "not found"
	! inside ldd /usr/bin/pvelxc-seccomp | grep "not found"
}
settings() {
	mkdir -p "$root/etc/pvelxc" "$root/var/lib/pvelxc-snapshotter"
	echo "version = 1" >"$root/etc/pvelxc/config.toml"
	echo "data" >"$root/var/lib/pvelxc-snapshotter/metadata.db"
	echo "# mine" >>"$root/etc/apparmor.d/pvelxc-container"
}
kept() {
	grep -x "version = 1" "$root/etc/pvelxc/config.toml"
	grep -x "# mine" "$root/etc/apparmor.d/pvelxc-container"
}
purged() {
	inside dpkg --purge pvelxc
	[[ $(cat "$root/var/lib/pvelxc-snapshotter/metadata.db") == data ]]
	rm -r "$root/var/lib/pvelxc-snapshotter"
	diff <(echo "$before") <(listing)
}

# The other architecture's programs, out of its package, on an emulated processor: each runs, finds its libraries, and says what it is.
foreign() {
	local other=arm64 qemu=qemu-aarch64-static deb tree program profile
	[[ $arch != arm64 ]] || { other=amd64 qemu=qemu-x86_64-static; }
	deb=$(find dist/out -name "pvelxc_*_$other.deb")
	[[ -n $deb && -d out/sysroot-$other ]] || { echo "no package of $other"; return 1; }
	tree=$(mktemp -d)
	dpkg-deb -x "$deb" "$tree"
	emulated() { "$qemu" -L "$PWD/out/sysroot-$other" "$tree/usr/bin/$1" "${@:2}"; }
	for program in $(make --no-print-directory programs); do
		file=$(head -c 20 "$tree/usr/bin/$program" | od -An -tx1 -j18 -N2 | tr -d ' ')
		[[ $file == "$([[ $other == arm64 ]] && echo b700 || echo 3e00)" ]] || { echo "$program is for another machine: $file"; return 1; }
	done
	emulated pvelxc version | grep -E "^pvelxc .* linux/$other "
	emulated pvelxc features | jq -e '.ociVersionMax and (.linux.namespaces | length > 5)' >/dev/null
	emulated pvelxc config default | grep -x 'version = 1'
	{ emulated pvelxc doctor kernel cgroup2 --json || :; } | jq -e 'length == 2 and .[0].name == "kernel"' >/dev/null
	mkdir "$tree/bundle"
	echo '{"ociVersion":"1.2.0","root":{"path":"rootfs"},"process":{"args":["x"],"cwd":"/"},"linux":{"namespaces":[{"type":"mount"},{"type":"pid"}]}}' >"$tree/bundle/config.json"
	emulated pvelxc explain "$tree/bundle" | grep '^lxc.rootfs.path'
	emulated pvelxc-shim -v | grep -F io.containerd.pvelxc.v2
	# It runs the other one, which this machine's kernel does not take: that it says so is all that can be seen.
	{ emulated containerd-shim-pvelxc-v2 -v 2>&1 || :; } | grep -F io.containerd.pvelxc.v2
	echo 'root = "tank/pvelxc"' >"$tree/snapshotter.toml"
	emulated pvelxc-snapshotter -check -config "$tree/snapshotter.toml" | grep 'is valid'
	# A filter for that architecture, by its own libseccomp: AUDIT_ARCH_AARCH64 is c00000b7.
	profile='{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["personality"],"action":"SCMP_ACT_ERRNO"}]}'
	emulated pvelxc-seccomp <<<"$profile" | od -An -tx1 -v | tr -d ' \n' | grep -q "$([[ $other == arm64 ]] && echo b70000c0 || echo 3e0000c0)"
	# These are for nobody's hands: without their messages they refuse, in words of their own.
	for program in pvelxc-monitor pvelxc-init; do
		local status=0
		emulated "$program" </dev/null >"$tree/said" 2>&1 || status=$?
		((status > 0 && status < 126)) || { echo "$program: status $status: $(cat "$tree/said")"; return 1; }
		if grep -E 'error while loading|Exec format|Illegal|qemu:' "$tree/said"; then return 1; fi
	done
	rm -rf "$tree"
}
if (($(find dist/out -name '*.deb' | wc -l) > 1)); then
	check "the programs for the other architecture run" foreign
else
	count=$((count + 1))
	echo "ok $count - the programs for the other architecture run # SKIP there is no package of it"
fi

check "installed" inside dpkg -i /before.deb
check "its programs run" programs
# systemd looks for a program by its name in these directories, too.
units() {
	local program
	while read -r program; do
		[[ -n $(find "$root"/usr/{,local/}{s,}bin "$root/$program" -maxdepth 1 -name "${program##*/}" 2>/dev/null) ]] || { echo "no $program"; return 1; }
	done < <(sed -n 's/^Exec\(Start\|StartPre\)=\([^ ]*\).*/\2/p' "$root"/usr/lib/systemd/system/pvelxc*)
}
check "the programs of the units are there" units
check "the man page is found" inside man -w pvelxc-doctor
settings
check "upgraded" inside dpkg --force-confold -i /pvelxc.deb
check "an administrator's settings are kept" kept
check "installed again" inside dpkg --force-confold -i /pvelxc.deb
check "removed" inside dpkg -r pvelxc
check "removed, and the settings are kept" kept
check "purged, and nothing but the snapshotter's database is left" purged
echo "1..$count"
((failed == 0))
