#!/bin/bash
# Builds what takes minutes and seldom changes: everything that comes out of Debian packages.
#
#	base.sh DIR
#
#	DIR/tools/       a tree with QEMU, virtiofsd and the image tools: the VM behaves alike on every host
#	DIR/guest.tar    the guest's root file system, without a kernel
#	DIR/modules.tar  the guest kernel's modules, spl.ko and zfs.ko among them
#	DIR/vmlinux      the guest kernel, uncompressed
#
# build.sh calls it inside a private mount namespace, under its lock, with an empty DIR.
set -euo pipefail
export LC_ALL=C
out=$(realpath "${1:?usage: base.sh DIR}")
start=$SECONDS
say() { echo "vm: $((SECONDS - start)) s: $*"; }
die() { printf 'vm: %s\n' "$@" >&2; exit 1; }

suite=trixie

# Needed to make the image and to run it. Debian 12's own QEMU 7.2 crashes this guest under emulation.
tools_packages=qemu-system-x86,virtiofsd,e2fsprogs,fdisk,cpio,kmod,zstd,xz-utils

# Needed to compile zfs.ko; the tree is thrown away afterwards.
compile_packages=gcc,make,libc6-dev,xz-utils,linux-headers-cloud-amd64

# What a Proxmox VE 9 node is made of, as far as a container runtime sees it. No kernel package: it would bring
# an initramfs generator along.
guest_packages=systemd-sysv,udev,dbus,kmod,procps,iproute2,fdisk
guest_packages+=,zfsutils-linux,attr,acl
guest_packages+=,lxc,lxcfs,uidmap,apparmor,libseccomp2,libcap2-bin,busybox-static
guest_packages+=,containerd,runc,containernetworking-plugins,iptables,iputils-ping
guest_packages+=,strace,jq
# Installed when the archive has them: criu comes and goes between Debian releases.
guest_optional="criu"

# The mirror this machine's own apt uses. A Debian cloud image hides it in a mirror list file.
mirror=${VM_MIRROR:-}
if [ -z "$mirror" ]; then
	while read -r uri; do
		case $uri in
		mirror+file:*) list=${uri#mirror+file:}; mirror=$(awk '!/^#/ && NF {print $1; exit}' "${list%/}") ;;
		*/debian/) mirror=$uri ;;
		esac
		[ -z "$mirror" ] || break
	done < <(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages')
fi
[ -n "$mirror" ] || die "found no Debian archive in this machine's apt sources" \
	"hint: name one, for example VM_MIRROR=http://mirror.example/debian make vm"

# bootstrap TARGET PACKAGES [OPTION...]: a minimal Debian with PACKAGES, as a directory or (named *.tar) an archive.
bootstrap() {
	local target=$1 packages=$2
	shift 2
	mmdebstrap --quiet --variant=minbase --include="$packages" --aptopt='Acquire::Languages "none"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt=force-unsafe-io "$@" \
		"$suite" "$out/$target" \
		"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main contrib" \
		>"$out/${target%.tar}.log" 2>&1 ||
		die "cannot build the $target tree; last lines of its log:" "$(tail -n 20 "$out/${target%.tar}.log")"
	say "$target done"
}

# The kernel image matches the headers, and is unpacked rather than installed. dpkg-deb -x, not the host's: an
# older dpkg may not know the compression.
cat >"$out/fetch-kernel" <<'H'
#!/bin/sh
set -e
cd "$1"/usr/src
kv=$(echo linux-headers-*-cloud-amd64)
kv=${kv#linux-headers-}
mkdir -p "$1/fetch"
chroot "$1" sh -c "cd /fetch && apt-get download -q zfs-dkms linux-image-$kv"
chroot "$1" sh -c "for deb in /fetch/*.deb; do dpkg-deb -x \$deb /fetch/x; done"
H
cat >"$out/install-optional" <<H
#!/bin/sh
set -e
for p in $guest_optional; do
	if chroot "\$1" apt-cache show --no-all-versions \$p >/dev/null 2>&1; then
		chroot "\$1" apt-get install -y -q --no-install-recommends \$p
	fi
done
H
chmod +x "$out/fetch-kernel" "$out/install-optional"

# The two other trees are made beside the compilation, which has stretches that use one core only.
bootstrap compile "$compile_packages" --customize-hook="$out/fetch-kernel"
(bootstrap tools "$tools_packages" && bootstrap guest.tar "$guest_packages" --customize-hook="$out/install-optional") &
trees=$!

compile=$out/compile
kv=$(ls "$compile/fetch/x/usr/lib/modules")
zfs=$(cd "$compile" && echo fetch/x/usr/src/zfs-*)
mount -t proc proc "$compile/proc"
in_compile() { # LOG COMMAND: run a command line in the ZFS source tree
	chroot "$compile" sh -ec "cd /$zfs && $2" >"$out/$1" 2>&1 ||
		{ kill "$trees" 2>/dev/null; die "ZFS does not compile; last lines of $1:" "$(tail -n 20 "$out/$1")"; }
}
in_compile configure.log "./configure --disable-dependency-tracking --prefix=/usr --with-config=kernel --with-qat= \
	--with-linux=/lib/modules/$kv/source --with-linux-obj=/lib/modules/$kv/build CC=\$(ls /usr/bin/x86_64-linux-gnu-gcc-[0-9]* | head -n 1)"
say "zfs configured"
# Debug information would double the time, and without it there is no BTF to generate.
in_compile make.log "make -j$(nproc) KCFLAGS=-g0 CONFIG_DEBUG_INFO_BTF_MODULES="
say "zfs compiled"
umount "$compile/proc"

modules=$compile/fetch/x/usr/lib/modules/$kv
rm -f "$modules/build" "$modules/source"
mkdir "$modules/updates"
cp "$compile/$zfs"/module/{spl,zfs}.ko "$modules/updates/"

wait "$trees" || die "a tree is missing: see above"

# Emulated code decompresses slowly, so nothing in the guest is compressed: neither modules nor kernel.
mount --bind "$compile" "$out/tools/mnt"
chroot "$out/tools" sh -ec "
	find '/mnt/fetch/x/usr/lib/modules/$kv' -name '*.ko.xz' -print0 | xargs -0 -r -P '$(nproc)' -n 50 xz -d
	mkdir -p /mnt/fetch/x/lib && ln -sfn ../usr/lib/modules /mnt/fetch/x/lib/modules
	depmod -b /mnt/fetch/x '$kv'"
tar -C "$compile/fetch/x" -cf "$out/modules.tar" usr/lib/modules
# A bzImage carries the ELF kernel as a zstd stream; QEMU boots the ELF file directly (PVH).
image=/mnt/fetch/x/boot/vmlinuz-$kv
chroot "$out/tools" sh -ec "
	for at in \$(grep -obUaP '\x28\xb5\x2f\xfd' $image | cut -d: -f1); do
		tail -c +\$((at + 1)) $image | zstd -dcq >/tmp/vmlinux 2>/dev/null || :
		if [ \"\$(head -c 4 /tmp/vmlinux | tail -c 3)\" = ELF ]; then exit 0; fi
	done
	exit 1" || die "found no ELF kernel in vmlinuz-$kv"
mv "$out/tools/tmp/vmlinux" "$out/vmlinux"
umount "$out/tools/mnt"

rm -rf "$compile" "$out"/{fetch-kernel,install-optional,compile.log,tools.log,guest.log,configure.log,make.log}
say "base: Linux $kv"
