#!/bin/bash
# Assembles the VM's disks from what base.sh built and the files in rootfs/ and initrd/.
#
#	image.sh DIR
#
#	DIR/initrd.cpio   busybox, the disk driver and initrd/init
#	DIR/root.img      the guest's root: the base's guest tree and modules, and rootfs/ over them
#	DIR/data.img      an empty disk with one partition, for a pool
#
# build.sh calls it contained, with an empty DIR beside the finished base. Debian's own tools do the work, in the
# base's tools tree.
set -euo pipefail
out=$(realpath "${1:?usage: image.sh DIR}")
here=$(dirname "$(realpath "$0")")
base=$(realpath "$out/../base")
guest=$out/guest

mkdir "$guest"
tar -C "$guest" -xpf "$base/guest.tar" --xattrs-include='*'
tar -C "$guest" -xpf "$base/modules.tar"
cp -rT --no-preserve=ownership "$here/rootfs" "$guest"

# Loading all of Debian's hundred profiles takes long under emulation, and LXC needs only its own.
mkdir "$guest/etc/apparmor.d.off"
for f in "$guest"/etc/apparmor.d/*; do
	case ${f##*/} in
	abi | abstractions | tunables | local | disable | force-complain | lxc | lxc-containers | usr.bin.lxc-start) ;;
	*) mv "$f" "$guest/etc/apparmor.d.off/" ;;
	esac
done

# Units that cost boot time and bring nothing to a machine that lives for one test run; containerd is started by
# the tests, each with a root of its own.
off=(getty@tty1 serial-getty@hvc0 serial-getty@ttyS0 ldconfig systemd-hwdb-update systemd-update-utmp
	systemd-pstore systemd-networkd systemd-timesyncd systemd-journal-flush systemd-random-seed systemd-logind
	systemd-binfmt systemd-tpm2-setup systemd-tpm2-setup-early
	lxc-net lxc lxc-monitord containerd zfs-volume-wait zfs-share
	apt-daily apt-daily-upgrade e2scrub_reap dpkg-db-backup)
timers=(apt-daily apt-daily-upgrade dpkg-db-backup fstrim e2scrub_all systemd-tmpfiles-clean)
units=$guest/etc/systemd/system
for u in "${off[@]/%/.service}" "${timers[@]/%/.timer}"; do ln -sf /dev/null "$units/$u"; done
mkdir -p "$units/multi-user.target.wants" "$guest/etc/systemd/system-generators"
ln -sf /dev/null "$guest/etc/systemd/system-generators/systemd-ssh-generator"
for u in vm-network vm-run; do ln -sf "../$u.service" "$units/multi-user.target.wants/"; done

initrd=$out/initrd
mkdir -p "$initrd"/{bin,dev,new}
cp "$here/initrd/init" "$initrd/init"
cp "$guest/usr/bin/busybox" "$initrd/bin/"
cp "$guest"/usr/lib/modules/*/kernel/drivers/block/virtio_blk.ko "$initrd/"

mount -t proc proc "$base/tools/proc"
mount --bind "$out" "$base/tools/mnt"
chroot "$base/tools" sh -euc '
	cd /mnt
	(cd initrd && find . | cpio -o -H newc --quiet) >initrd.cpio
	truncate -s 4G root.img
	mke2fs -q -F -t ext4 -O ^has_journal -E lazy_itable_init=1 -m 0 -d guest root.img
	# On a whole disk, and without udev, zpool waits in vain for the partition that it makes.
	truncate -s 8G data.img
	echo "start=2048, type=bf" | sfdisk -q data.img'
umount "$base/tools/mnt" "$base/tools/proc"
rm -rf "$guest" "$initrd"
