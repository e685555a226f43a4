#!/bin/bash
# The documents, typed as they stand: each command is looked for in its page first, so that a page that changes fails here.
# Images come from an archive under the names that the pages have, since there is no network.
# limit: 1500 s
. "$VM_TAP"

deb=$(find "$VM_DEB" -name "pvelxc_*_$(dpkg --print-architecture).deb" 2>/dev/null | head -n 1)
if [ -z "$deb" ]; then
	echo "not ok - there is no package in $VM_DEB (make packages)"
	exit 1
fi
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PVELXC_PEERS/nerdctl-2.1.2 NO_COLOR=1
unset PVELXC_CONFIG
docs=$TMPDIR/package/usr/share/doc/pvelxc
dpkg-deb -x "$deb" "$TMPDIR/package"
finish() {
	nerdctl rm -f web
	pvelxc uninstall --force
	dpkg --purge pvelxc
	systemctl stop containerd
	! mountpoint -q /var/lib/pvelxc-snapshotter/exports || umount /var/lib/pvelxc-snapshotter/exports
	zpool destroy -f rpool
	systemctl mask containerd
	rm -rf /var/lib/pvelxc-snapshotter /etc/nerdctl /var/lib/nerdctl /var/lib/cni /var/lib/prometheus /etc/cni
	kill "$pmxcfs"
	wait "$pmxcfs"
	rmdir /etc/pve
	rm -rf --one-file-system /var/lib/containerd/*
	ip link del nerdctl0
	find /sys/fs/cgroup/pvelxc.pivot /sys/fs/cgroup/pvelxc.monitor /sys/fs/cgroup/default /sys/fs/cgroup/pvelxc-install /sys/fs/cgroup/nerdctl -depth -type d -exec rmdir {} +
	systemctl reset-failed
}
trap 'finish 2>&1 | sed "s/^/# finish: /"; tap_end' EXIT

mkdir /etc/pve
"$VM_GO/pmxcfs" node1 /etc/pve &
pmxcfs=$!
poll 30 test -e /etc/pve/local
zpool create -f -O mountpoint=none rpool "$VM_POOL_DEVICE"
systemctl unmask containerd
systemctl start containerd
poll 120 ctr version >/dev/null

# typed PAGE COMMAND [FROM TO]...: the command is in the page; then it is run, with words of this machine in the place of the page's.
typed() {
	local page=$1 command=$2
	grep -qF -- "$command" "$docs/$page" || { echo "$page does not say: $command"; return 1; }
	shift 2
	while (($#)); do command=${command//"$1"/$2}; shift 2; done
	echo "\$ $command" >&2
	bash -o pipefail -c "$command"
}

# An image of busybox under another's name, with what a server would have.
archive() {
	local tree=$TMPDIR/image layer config manifest
	mkdir -p "$tree/root/bin" "$tree/blobs/sha256"
	cp /bin/busybox "$tree/root/bin/"
	for applet in sh sleep uname cat id ls; do ln -s busybox "$tree/root/bin/$applet"; done
	tar -C "$tree/root" --owner 0 --group 0 -cf "$tree/layer" .
	blob() { local d; d=$(sha256sum <"$1" | cut -c1-64); cp "$1" "$tree/blobs/sha256/$d"; echo "$d"; }
	descriptor() { printf '{"mediaType":"%s","digest":"sha256:%s","size":%d%s}' "$1" "$2" "$(stat -c %s "$tree/blobs/sha256/$2")" "${3:-}"; }
	layer=$(blob "$tree/layer")
	printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/sh","-c","while :; do sleep 1; done"],"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$layer" >"$tree/config"
	config=$(blob "$tree/config")
	printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}' \
		"$(descriptor application/vnd.oci.image.config.v1+json "$config")" "$(descriptor application/vnd.oci.image.layer.v1.tar "$layer")" >"$tree/manifest"
	manifest=$(blob "$tree/manifest")
	printf '{"schemaVersion":2,"manifests":[%s]}' \
		"$(descriptor application/vnd.oci.image.manifest.v1+json "$manifest" ",\"annotations\":{\"io.containerd.image.name\":\"docker.io/library/$1\"}")" >"$tree/index.json"
	echo '{"imageLayoutVersion":"1.0.0"}' >"$tree/oci-layout"
	tar -C "$tree" -cf "$2" oci-layout index.json blobs
	rm -rf "$tree"
}
vmid() { pvelxc list -o json | jq -r ".[] | select(.name == \"$1\" or .id == \"$1\") | .vmid"; }

install() {
	cp "$deb" "$TMPDIR/"
	cd "$TMPDIR"
	typed install.md "apt install ./pvelxc_VERSION_amd64.deb" "apt install" "apt-get install -y --no-install-recommends" pvelxc_VERSION_amd64.deb "$(basename "$deb")"
	typed install.md "pvelxc install --pool rpool"
	local name
	for name in nginx:alpine alpine:latest; do
		archive "$name" "$TMPDIR/$name.tar"
		ctr image import --snapshotter pvelxc "$TMPDIR/$name.tar"
	done
}
quickstart() {
	typed quickstart.md "nerdctl run -d --name web --snapshotter pvelxc --runtime io.containerd.pvelxc.v2 nginx:alpine" "run -d" "run -d --net none --pull never"
	typed quickstart.md "pvelxc list"
	local id
	id=$(vmid web)
	[ "$id" -ge 900000 ]
	typed quickstart.md "lxc-info -n VMID" VMID "$id" | grep RUNNING
	typed quickstart.md "pvelxc inspect VMID" VMID "$id" | grep -F '── Proxmox VE conf, changed since'
	typed quickstart.md "pvelxc logs VMID" VMID "$id"
	typed quickstart.md "pvelxc explain BUNDLE" BUNDLE "/run/containerd/io.containerd.runtime.v2.task/default/$(nerdctl ps -q --no-trunc -f name=web)" | grep '^lxc.rootfs.path'
	grep -x "hostname: web" "/etc/pve/lxc/$id.conf"
	typed nerdctl.md "nerdctl rm" "nerdctl rm" "nerdctl rm -f web"
	[ ! -e "/etc/pve/lxc/$id.conf" ]
	typed quickstart.md "ctr run -d --snapshotter pvelxc --runtime io.containerd.pvelxc.v2 docker.io/library/nginx:alpine web"
	[ "$(vmid web)" -ge 900000 ]
	ctr tasks rm -f web
	ctr containers rm web
}
nerdctl_page() {
	mkdir -p /etc/nerdctl
	typed nerdctl.md 'snapshotter = "pvelxc"     # on a node with ZFS' 'snapshotter = "pvelxc"     # on a node with ZFS' "echo 'snapshotter = \"pvelxc\"' >/etc/nerdctl/nerdctl.toml"
	typed nerdctl.md "nerdctl run --runtime io.containerd.pvelxc.v2 …" "nerdctl run" "nerdctl run --rm --net none --pull never" "…" "alpine uname" | grep Linux
	local out
	! out=$(nerdctl run --rm --net none --pull never --runtime pvelxc alpine uname 2>&1)
	echo "$out"
	grep -F "pvelxc is not an OCI runtime like runc: type --runtime io.containerd.pvelxc.v2 instead" <<<"$out"
}
zfs_page() {
	typed zfs.md "pvelxc-snapshotter -check" | grep 'is valid'
	typed zfs.md "containerd config dump" | grep -F io.containerd.pvelxc.v2
	typed zfs.md "zfs list -t all -r -o name,origin,used,refer,pvelxc:commit rpool/pvelxc" | grep '@'
	typed zfs.md "ctr -n k8s.io snapshots --snapshotter pvelxc tree" "-n k8s.io" "" | grep .
	typed zfs.md "zfs list -o space -r rpool" >/dev/null
	typed zfs.md "zpool status" | grep ONLINE
}
lost() {
	ctr run -d --snapshotter pvelxc --runtime io.containerd.pvelxc.v2 docker.io/library/alpine:latest lost
	typed zfs.md "systemctl stop pvelxc-snapshotter.socket pvelxc-snapshotter"
	rm /var/lib/pvelxc-snapshotter/metadata.db
	local out
	out=$(typed zfs.md "pvelxc-snapshotter -recover")
	echo "$out"
	grep "layers are known again" <<<"$out"
	typed zfs.md "systemctl start pvelxc-snapshotter.socket"
	# The container whose name was only in the file is told of, and stays until somebody decides.
	out=$(pvelxc gc)
	echo "$out"
	grep -E "^dataset +rpool/pvelxc/s/[a-z2-7]{13} +kept +a container's, whose name was lost" <<<"$out"
	pvelxc gc --apply
	pvelxc gc | grep -E ' kept +a container'
	ctr tasks rm -f lost
	ctr containers rm lost
	# As the hint has it.
	out=$(pvelxc gc | grep -oE 'zfs destroy -r rpool/pvelxc/s/[a-z2-7]{13}')
	bash -ec "$out"
	out=$(pvelxc gc)
	echo "$out"
	grep -F ', 0 leftovers' <<<"$out"
	# The image is whole.
	ctr run --rm --snapshotter pvelxc --runtime io.containerd.pvelxc.v2 docker.io/library/alpine:latest again uname | grep Linux
}
monitoring() {
	local out file=/var/lib/prometheus/node-exporter/pvelxc.prom
	mkdir -p "${file%/*}"
	out=$(sed -n '/^    pvelxc doctor --json/,/^$/p' "$docs/monitoring.md")
	bash -c "$out"
	grep -x 'pvelxc_doctor{check="kernel"} 0' "$file"
	typed monitoring.md "pvelxc list -o json" | jq -e type
	typed monitoring.md "pvelxc gc --json" | jq -e '.leftovers | length == 0'
	mkdir -p /etc/default
	typed registration.md 'OPTIONS="--textfile /var/lib/prometheus/node-exporter/pvelxc.prom"' 'OPTIONS=' "echo 'OPTIONS=" 'pvelxc.prom"' "pvelxc.prom\"' >/etc/default/pvelxc-gc"
	systemctl start pvelxc-gc.service
	grep -x 'pvelxc_reconcile_success 1' "$file"
	rm /etc/default/pvelxc-gc
}
troubleshooting() {
	ctr run -d --snapshotter pvelxc --runtime io.containerd.pvelxc.v2 docker.io/library/alpine:latest sick
	typed troubleshooting.md "pvelxc list"
	typed troubleshooting.md "pvelxc logs ID" ID sick
	typed troubleshooting.md "pvelxc inspect ID" ID sick >/dev/null
	typed troubleshooting.md "pvelxc explain BUNDLE" BUNDLE /run/containerd/io.containerd.runtime.v2.task/default/sick >/dev/null
	typed troubleshooting.md "pvelxc support-bundle" | grep ' files$'
	typed troubleshooting.md "apparmor_parser -r /etc/apparmor.d/…" … pvelxc-container
	ctr tasks rm -f sick
	ctr containers rm sick
}
upgrade() {
	cd "$TMPDIR"
	typed upgrade.md "apt install ./pvelxc_NEWER_amd64.deb" "apt install" "apt-get install -y --reinstall --no-install-recommends" pvelxc_NEWER_amd64.deb "$(basename "$deb")"
	typed upgrade.md "pvelxc doctor binary-skew"
}
uninstall() {
	typed install.md "pvelxc uninstall"
	typed install.md "apt purge pvelxc" "apt purge" "apt-get purge -y"
	ls /etc/pvelxc 2>&1 | grep "No such file"
}

check "install.md" install
check "quickstart.md" quickstart
check "nerdctl.md" nerdctl_page
check "zfs.md" zfs_page
check "zfs.md: when metadata.db is lost" lost
check "monitoring.md, registration.md: files for node_exporter" monitoring
check "troubleshooting.md" troubleshooting
check "upgrade.md" upgrade
check "install.md: uninstall" uninstall
