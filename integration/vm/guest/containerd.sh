# Sourced by suites, after tap.sh: a containerd of the suite's own, and what it needs.
#
#	plain_containerd ROOT RUN           prints a configuration of version 2, for containerd 1.7: its root is ROOT, state and
#	                                    socket (RUN/sock) are below RUN, and there is no CRI
#	snapshotter_settings POOL DIR       prints pvelxc-snapshotter's, all below DIR: state, snapshotter.sock, containerd.sock
#	snapshotter_containerd DIR          prints one of version 3 with that snapshotter and its differ, below the same DIR
#	layer_datasets POOL                 counts the datasets of images and containers
#	busybox_rootfs DIR APPLET...        makes a container's root
#	remove_shared_cgroups [NAME...]     removes those that containers share, which the shim leaves, and those of the names
# shellcheck shell=bash
plain_containerd() {
	cat <<-EOT
		version = 2
		root = "$1"
		state = "$2/state"
		disabled_plugins = ["io.containerd.grpc.v1.cri"]
		[grpc]
		address = "$2/sock"
	EOT
}

snapshotter_settings() {
	cat <<-EOT
		version = 1
		root = "$1/pvelxc"
		state = "$2/state"
		address = "$2/snapshotter.sock"
		containerd = "$2/containerd.sock"
	EOT
}

snapshotter_containerd() {
	cat <<-EOT
		version = 3
		root = "$1/root"
		state = "$1/run"
		disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.zfs", "io.containerd.nri.v1.nri"]
		[grpc]
		  address = "$1/containerd.sock"
		[ttrpc]
		  address = "$1/containerd.sock.ttrpc"
		[proxy_plugins.pvelxc]
		  type = "snapshot"
		  address = "$1/snapshotter.sock"
		[proxy_plugins.pvelxc-diff]
		  type = "diff"
		  address = "$1/snapshotter.sock"
		[plugins."io.containerd.service.v1.diff-service"]
		  default = ["pvelxc-diff", "walking"]
		[[plugins."io.containerd.transfer.v1.local".unpack_config]]
		  platform = "linux"
		  snapshotter = "pvelxc"
		  differ = "pvelxc-diff"
	EOT
}

layer_datasets() { zfs list -H -o name -r -d 1 "$1/pvelxc/s" | grep -cv "/s$"; }

busybox_rootfs() {
	local dir=$1 applet
	shift
	mkdir -p "$dir"/{bin,dev,etc,proc,sys,tmp}
	cp /bin/busybox "$dir/bin/"
	for applet in "$@"; do ln -s busybox "$dir/bin/$applet"; done
}

remove_shared_cgroups() {
	local name dirs=()
	for name in pvelxc.pivot pvelxc.monitor "$@"; do
		[ ! -d "/sys/fs/cgroup/$name" ] || dirs+=("/sys/fs/cgroup/$name")
	done
	((${#dirs[@]} == 0)) || find "${dirs[@]}" -depth -type d -exec rmdir {} +
}
