#!/usr/bin/env bash
# Builds a release twice, in two clones in directories of other names and lengths, under another umask, time zone and
# language, and compares every file byte by byte.
#
# The tools that packages are made with, and Debian's libraries for the other architecture, are this checkout's.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/pvelxc-release.XXXXXX")
trap 'rm -rf "$work"' EXIT

one=$work/a two=$work/another-directory/of-another-length
built() { # DIR: a release of a clone there
	git clone --quiet --no-hardlinks "$repo" "$1"
	# A clone has no tag that only this checkout has, and a version is named by tags.
	git -C "$1" fetch --quiet --tags "$repo"
	git -C "$1" checkout --quiet --detach "$(git -C "$repo" rev-parse HEAD)"
	mkdir -p "$1/out"
	for shared in tools sysroot-arm64 sysroot-amd64; do
		[[ ! -e $repo/out/$shared ]] || ln -s "$repo/out/$shared" "$1/out/$shared"
	done
	make --no-print-directory -C "$1" release
}
(umask 022 && built "$one") >"$work/one.log" 2>&1 || { tail -n 30 "$work/one.log" >&2; exit 1; }
(umask 077 && export TZ=Asia/Tokyo LC_ALL=C.UTF-8 HOSTNAME=another SOURCE_DATE_EPOCH= && unset SOURCE_DATE_EPOCH && sleep 2 && built "$two") >"$work/two.log" 2>&1 ||
	{ tail -n 30 "$work/two.log" >&2; exit 1; }

files=$(cd "$one/dist/out" && find . -type f | sort)
for kind in amd64.deb arm64.deb .tar.xz sbom.cdx.json SHA256SUMS; do
	grep -q "$kind\$" <<<"$files" || { echo "release check: there is no $kind among $files" >&2; exit 1; }
done
if ! diff -r "$one/dist/out" "$two/dist/out"; then
	echo "release check: the same commit gave other bytes (hint: diffoscope)" >&2
	exit 1
fi
cat "$one/dist/out/SHA256SUMS"
echo "release check: $(wc -l <<<"$files") files are the same, byte by byte"
