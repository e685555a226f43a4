package doctor

// Checks are all that there are, in the order in which a reader understands them: the
// machine, the cluster, the pool, containerd, Kubernetes.
var Checks = []Check{
	{"pve-version", "Proxmox VE is one that pvelxc knows", pveVersion},
	{"lxc-version", "liblxc is 5.0 or newer", lxcVersion},
	{"kernel", "Linux is 5.12 or newer", kernel},
	{"cgroup2", "cgroup v2 alone, with the controllers that limits need", cgroup2},
	{"apparmor", "AppArmor is on and pvelxc's profile is loaded", appArmor},
	{"idmap-subuid", "root may map ids 100000 to 165535", subordinateIDs},
	{"lxcfs", "lxcfs serves /proc files that tell a container's limits", lxcfs},
	{"criu", "CRIU, which is for checkpoints", criu},
	{"quorum", "the cluster is quorate, so that containers can be registered", quorum},
	{"pmxcfs-space", "the cluster file system has room for confs", pmxcfsSpace},
	{"vmid-range", "the range of VMIDs has free ones and no foreign guests", vmidRange},
	{"registrations", "containers that run are known to Proxmox VE", registrations},
	{"pve-api", "the API of Proxmox VE answers, and its token may do what it is for", pveAPI},
	{"backup-all-job", "no backup job takes every guest, and so containers", backupJobs},
	{"ha-conflict", "no container is a resource of the HA manager", haConflict},
	{"zfs-pool-health", "the pool is healthy and has room", poolHealth},
	{"zfs-root-props", "the snapshotter's dataset has the properties it was made with", rootProperties},
	{"zfs-autosnap", "no snapshot tool works on the snapshotter's datasets", autoSnapshots},
	{"zfs-orphans", "datasets that were removed are destroyed", orphans},
	{"containerd-version", "containerd is 1.7 to 2.x", containerdVersion},
	{"containerd-config", "containerd takes its configuration", containerdConfig},
	{"runtime-handler", "containerd has the runtime handler and finds the shim", runtimeHandler},
	{"snapshotter-socket", "the snapshotter answers", snapshotterSocket},
	{"exports-root", "containerd knows where the snapshotter keeps images, for their capacity", exportsRoot},
	{"cni-conf", "pods have a network configuration and its plugins", cniConf},
	{"kubelet-runtimeclass", "Kubernetes knows the handler, with the kubelet's cgroup driver", kubeletRuntimeClass},
	{"binary-skew", "running shims are of the installed version", binarySkew},
}
