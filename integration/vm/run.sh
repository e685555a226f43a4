#!/bin/bash
# Boots the VM that build.sh made and runs a shell command in it.
#
#	run.sh [-s] [-t SECONDS] [-d DIR] [-D FILE] COMMAND...
#
#	-s          systemd as PID 1 (default: a tiny init, which boots in half the time)
#	-t SECONDS  end the VM after this long (default 300)
#	-d DIR      share DIR with the VM, read and write, as /host
#	-D FILE     a copy of image/data.img as the data disk, which keeps what is written to it
#
# The words of COMMAND are joined and run by bash as root, standard input empty; its output comes out here and its
# exit status is this script's. When the VM itself fails or runs out of time, the status is 125 and the
# end of the serial console follows on standard error. The VM leaves nothing behind: its disks are thrown away, and
# no process or mount survives this script, even kill -9.
#
# A guest that has not begun with the command within VM_BOOT_LIMIT seconds (default 240) is ended and started again,
# three times at most: nothing of the command has happened by then.
#
# Environment: VM_DIR where build.sh put the VM (out/vm), VM_MEMORY (4G), VM_CPUS (2), VM_ACCEL (kvm or tcg; default:
# kvm where the processor can virtualize), VM_BOOT_LIMIT.
set -uo pipefail
here=$(dirname "$(realpath "$0")")
dir=$(realpath -m "${VM_DIR:-$here/../../out/vm}")
die() { printf 'vm: %s\n' "$@" >&2; exit 125; }

# The inner half, contained: start virtiofsd and QEMU in the tools tree and wait for QEMU.
boot() { # RUN SHARE SECONDS INIT DISK
	local run=$1 share=$2 limit=$3 init=$4 disk=$5 data=/media/vm/image/data.img throw=on tools=$dir/base/tools accel=${VM_ACCEL:-tcg} cpu=max
	[ "$accel" = tcg ] && accel=tcg,thread=multi,tb-size=512 || cpu=host
	mount --bind "$run" "$tools/mnt"
	mount --bind "$share" "$tools/mnt/shared/host"
	mount --rbind /dev "$tools/dev"
	mount -t proc proc "$tools/proc"
	mkdir -p "$tools/media/vm"
	mount --bind "$dir" "$tools/media/vm"
	if [ -n "$disk" ]; then
		touch "$tools/tmp/data.img"
		mount --bind "$disk" "$tools/tmp/data.img"
		data=/tmp/data.img throw=off
	fi
	chroot "$tools" /usr/libexec/virtiofsd --socket-path=/mnt/virtiofs.sock --shared-dir=/mnt/shared \
		--cache=auto --sandbox=none >"$run/virtiofsd.log" 2>&1 &
	until [ -S "$run/virtiofs.sock" ]; do
		kill -0 $! 2>/dev/null || die "virtiofsd does not start: $(<"$run/virtiofsd.log")"
		sleep 0.05
	done
	# Not QEMU's own standard output: QEMU makes its files non-blocking, and that one is others' too.
	mkfifo "$run/output"
	cat "$run/output" &
	local output=$!
	timeout "$limit" chroot "$tools" qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -nic none \
		-accel "$accel" -cpu "$cpu" -smp "${VM_CPUS:-2}" -m "${VM_MEMORY:-4G}" \
		-machine q35,memory-backend=mem -object "memory-backend-memfd,id=mem,size=${VM_MEMORY:-4G},share=on" \
		-kernel /media/vm/base/vmlinux -initrd /media/vm/image/initrd.cpio \
		-append "console=ttyS0 quiet panic=-1 net.ifnames=0 mitigations=off apparmor=1 security=apparmor tsc=reliable \
random.trust_cpu=on systemd.show_status=0 $init" \
		-serial file:/mnt/serial.log \
		-drive file=/media/vm/image/root.img,format=raw,if=virtio,cache=unsafe,snapshot=on \
		-drive "file=$data,format=raw,if=virtio,cache=unsafe,snapshot=$throw" \
		-chardev socket,id=fs,path=/mnt/virtiofs.sock -device vhost-user-fs-pci,chardev=fs,tag=run \
		-device virtio-serial-pci \
		-chardev file,id=output,path=/mnt/output -device virtserialport,chardev=output,name=output \
		-chardev file,id=status,path=/mnt/status -device virtserialport,chardev=status,name=status \
		-device virtio-rng-pci </dev/null >"$run/qemu.log" 2>&1
	local ended=$?
	# No writer, no end of file: when QEMU never opened it, this opens it instead.
	: <>"$run/output"
	wait "$output"
	return "$ended"
}
if [ "${1:-}" = --contained ]; then
	shift
	boot "$@"
	exit
fi

init=vminit=/usr/local/sbin/vm-init limit=300 share='' disk=''
while getopts st:d:D: o; do
	case $o in
	s) init= ;;
	t) limit=$OPTARG ;;
	d) share=$(realpath -e "$OPTARG") || die "cannot share $OPTARG" ;;
	D) disk=$(realpath -e "$OPTARG") || die "there is no disk $OPTARG" "hint: cp --sparse=always $dir/image/data.img $OPTARG" ;;
	*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || die "no command given" "usage: run.sh [-s] [-t SECONDS] [-d DIR] [-D FILE] COMMAND..."
[ "$(id -u)" = 0 ] || die "running the VM needs root: QEMU runs in a tree of its own"
[ -f "$dir/image.stamp" ] || die "there is no VM in $dir" "hint: make vm"

# Nested or half-working virtualization shows a /dev/kvm that cannot run this guest; the flag tells.
if [ -z "${VM_ACCEL:-}" ]; then
	export VM_ACCEL=tcg
	if [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo; then VM_ACCEL=kvm; fi
fi

# Held while the VM runs: build.sh waits before it replaces the files under it.
exec 9>>"$dir/lock"
flock -s 9
run=$(mktemp -d "${TMPDIR:-/tmp}/vm.XXXXXX") || exit 125
trap 'rm -rf "$run"' EXIT
trap 'kill "$vm" 2>/dev/null; wait "$vm"; exit 143' HUP INT TERM
mkdir -p "$run/empty"

# start runs the VM once; its status is QEMU's, and hung is set when the guest never came up.
start() {
	local end=$((SECONDS + ${VM_BOOT_LIMIT:-240}))
	rm -rf "$run"/{shared,virtiofs.sock*,output,status,serial.log}
	mkdir -p "$run/shared/host"
	printf '%s\n' "$*" >"$run/shared/command"
	setpriv --pdeathsig KILL "$here/contain" "$0" --contained "$run" "${share:-$run/empty}" "$limit" "$init" "$disk" &
	vm=$!
	hung=
	# The guest makes this file just before the command.
	until [ -e "$run/shared/up" ] || ! kill -0 "$vm" 2>/dev/null; do
		if ((SECONDS >= end)); then
			hung=yes
			kill "$vm"
			break
		fi
		sleep 0.2
	done
	wait "$vm"
}
for attempt in 1 2 3; do
	start "$@"
	ended=$?
	[ ! -e "$run/shared/up" ] || break
	echo "vm: boot $attempt of 3 did not reach the command${hung:+ within ${VM_BOOT_LIMIT:-240} s} (QEMU: $ended)" >&2
	hung=yes
done
status=$(cat "$run/status" 2>/dev/null)
[ -z "$status" ] || exit "$status"
if [ -n "$hung" ]; then
	why="the guest never came up"
elif [ "$ended" = 124 ]; then
	why="the command did not end within $limit s"
else
	why="the VM ended without the command's exit status (QEMU: $ended)"
fi
die "$why; end of the serial console:" "$(tail -n 40 "$run/serial.log" "$run/qemu.log" 2>/dev/null)"
