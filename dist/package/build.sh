#!/usr/bin/env bash
# Builds the Debian packages of the given architectures into dist/out. The same commit gives the same bytes: times are
# the commit's, and no path of this machine is in a program.
#
#	build.sh ARCH...     amd64 and arm64; the other than this machine's is cross-compiled against Debian's own libraries
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly NFPM=v2.45.2
out=$PWD/dist/out
stage=$PWD/out/package
tools=$PWD/out/tools
die() { printf 'package: %s (hint: %s)\n' "$1" "$2" >&2; exit 1; }

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
version=${VERSION:-$(git describe --tags --match 'v[0-9]*' 2>/dev/null || echo "0.0.0-$(git log --oneline | wc -l)-g$(git rev-parse --short=9 HEAD)")}
version=${version#v}
# 1.2.0-3-gabcdef is the third commit after 1.2.0; Debian sorts 1.2.0+3.gabcdef so.
deb_version=$(sed -E 's/-([0-9]+)-g/+\1.g/; s/-/~/' <<<"$version")
export SOURCE_DATE_EPOCH GOFLAGS=-buildvcs=false TZ=UTC LC_ALL=C
umask 022

if [[ ! -x $tools/nfpm-$NFPM ]]; then
	echo "package: building nfpm $NFPM" >&2
	GOBIN=$tools/new CGO_ENABLED=0 go install -trimpath -ldflags "-s -w" "github.com/goreleaser/nfpm/v2/cmd/nfpm@$NFPM"
	mv "$tools/new/nfpm" "$tools/nfpm-$NFPM"
fi

# cross ARCH: a tree with that architecture's libraries, and the variables that make use them. Packages are fetched with an
# apt configuration of our own: the machine's dpkg learns of no other architecture.
cross() {
	local arch=$1 triplet=$2 root=$PWD/out/sysroot-$1 part deb
	if [[ ! -e $root/.done ]]; then
		echo "package: fetching the libraries of $arch" >&2
		rm -rf "$root"
		mkdir -p "$root"/{apt/lists/partial,apt/cache/archives/partial,apt/etc,debs}
		local options=(-o "APT::Architecture=$arch" -o "APT::Architectures=$arch" -o "Dir::State=$root/apt" -o "Dir::State::lists=$root/apt/lists"
			-o "Dir::State::status=$root/apt/status" -o "Dir::Cache=$root/apt/cache" -o APT::Sandbox::User=root)
		: >"$root/apt/status"
		apt-get "${options[@]}" update -qq
		local lxc=lxc-dev
		apt-cache "${options[@]}" show lxc-dev >/dev/null 2>&1 || lxc=liblxc-dev
		apt-get "${options[@]}" install -y -qq --no-install-recommends --download-only "$lxc" libseccomp-dev libc6-dev >/dev/null
		for deb in "$root"/apt/cache/archives/*.deb; do dpkg-deb -x "$deb" "$root"; done
		rm -rf "$root/apt" "$root/debs"
		# A system that has merged /usr has these links, which no package of it brings.
		for part in lib bin sbin; do
			[[ ! -L $root/$part ]] || continue
			mkdir -p "$root/usr/$part"
			[[ ! -d $root/$part ]] || cp -an "$root/$part/." "$root/usr/$part/"
			rm -rf "${root:?}/$part"
			ln -s "usr/$part" "$root/$part"
		done
		touch "$root/.done"
	fi
	cat >"$root/pkg-config" <<-P
		#!/bin/sh
		PKG_CONFIG_LIBDIR=$root/usr/lib/$triplet/pkgconfig:$root/usr/share/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root exec pkg-config "\$@"
	P
	chmod +x "$root/pkg-config"
	export CC="$triplet-gcc --sysroot=$root" PKG_CONFIG=$root/pkg-config
	# What liblxc itself needs is found where it runs.
	export CFLAGS="-Wl,--allow-shlib-undefined" CGO_LDFLAGS="-Wl,--allow-shlib-undefined"
}

build() {
	local arch=$1 dir=$stage/$1
	rm -rf "$dir"
	mkdir -p "$dir"/{bin,man,doc}
	(
		export GOARCH=$arch
		if [[ $arch != $(dpkg --print-architecture) ]]; then
			case $arch in
			arm64) cross arm64 aarch64-linux-gnu ;;
			amd64) cross amd64 x86_64-linux-gnu ;;
			*) die "no packages are built for $arch" "amd64 or arm64" ;;
			esac
		fi
		make --no-print-directory BIN="$dir/bin" VERSION="$version" go c ${CC:+CC="$CC"} ${PKG_CONFIG:+PKG_CONFIG="$PKG_CONFIG"}
	)
	local program
	for program in $(make --no-print-directory programs); do
		[[ -x $dir/bin/$program ]] || die "$program was not built" "make programs lists them"
	done
	for page in dist/man/*.8; do
		sed "s/^\(\.TH \"[^\"]*\" \"8\" \)\"\"/\1\"$(date -u -d "@$SOURCE_DATE_EPOCH" +%F)\"/" "$page" | gzip -9n >"$dir/man/$(basename "$page").gz"
	done
	gzip -9n <CHANGELOG.md >"$dir/doc/changelog.gz"
	cat >"$dir/doc/changelog.Debian" <<-C
		pvelxc ($deb_version) unstable; urgency=medium

		  * See changelog.gz.

		 -- The pvelxc authors <pvelxc@noreply.github.com>  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
	C
	gzip -9n "$dir/doc/changelog.Debian"
	find "$dir" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	mkdir -p "$out"
	sed -e "s|\${ARCH}|$arch|; s|\${VERSION}|$deb_version|; s|\${STAGE}|$dir|; s|\${NATIVE}|$stage/native|" \
		-e "s|\${MTIME}|$(date -u -d "@$SOURCE_DATE_EPOCH" +%FT%TZ)|" dist/package/nfpm.yaml >"$stage/nfpm-$arch.yaml"
	"$tools/nfpm-$NFPM" package --config "$stage/nfpm-$arch.yaml" --packager deb --target "$out/pvelxc_${deb_version}_$arch.deb" >&2
	echo "$out/pvelxc_${deb_version}_$arch.deb"
}

# Completions are the program's own words, whatever it is built for.
rm -rf "$stage/native"
mkdir -p "$stage/native"
CGO_ENABLED=0 go build -trimpath -o "$stage/native/pvelxc" ./cmd/pvelxc
for shell in bash zsh fish; do
	"$stage/native/pvelxc" completion "$shell" >"$stage/native/pvelxc.$shell"
done
find "$stage/native" -exec touch -d "@$SOURCE_DATE_EPOCH" {} +

rm -rf "$out"
for arch; do build "$arch"; done
