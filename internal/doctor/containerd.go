package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/pvelxc/pvelxc/internal/ctrd"
)

func containerdVersion(_ context.Context, n *Node) Result {
	l, err := n.layout()
	if err != nil {
		return failure("apt install containerd, or correct its configuration", "%v", err)
	}
	switch v := l.Major()*1000 + l.Minor(); {
	case v == 0:
		return warning(l.Binary+" --version", "the version of %s cannot be asked", l.Kind)
	case v < 1007:
		return failure("upgrade to containerd 1.7 or newer", "containerd %s is older than 1.7", l.Version)
	case l.Major() > 2:
		return warning("read docs/compatibility.md for news", "containerd %s is newer than what pvelxc was tested with", l.Version)
	}
	return ok("%s %s", l.Kind, l.Version)
}

func containerdConfig(_ context.Context, n *Node) Result {
	l, err := n.layout()
	if err != nil {
		return failure("apt install containerd, or correct its configuration", "%v", err)
	}
	tree, err := n.dump()
	if err != nil {
		return failure(l.Binary+" config dump", "%v", err)
	}
	if disabled, ok := tree.At("disabled_plugins").([]any); ok {
		for _, plugin := range disabled {
			if name := fmt.Sprint(plugin); name == "cri" || name == ctrd.CRI(2) || name == ctrd.CRI(3) {
				return warning("remove "+name+" from disabled_plugins in "+l.Config+", if Kubernetes is to run here", "CRI is switched off: nerdctl and ctr work, a kubelet does not")
			}
		}
	}
	return ok("%s is valid, schema %d", l.Live, l.Schema)
}

func runtimeHandler(_ context.Context, n *Node) Result {
	if _, err := n.Look("containerd-shim-pvelxc-v2"); err != nil {
		return failure("install the package, or put containerd-shim-pvelxc-v2 into /usr/local/bin", "containerd cannot find the shim: %v", err)
	}
	tree, err := n.dump()
	if err != nil {
		return skipped("containerd's configuration cannot be read (containerd-config says why)")
	}
	table := tree.RuntimeTable()
	if table == nil {
		return warning("pvelxc install", "containerd has no runtime handler %s: nerdctl and ctr work, pods cannot name it", ctrd.Handler)
	}
	if got := ctrd.Tree(table).Text("runtime_type"); got != ctrd.Runtime {
		return failure("set runtime_type = \""+ctrd.Runtime+"\"", "the handler %s runs %q", ctrd.Handler, got)
	}
	return ok("handler %s is %s", ctrd.Handler, ctrd.Runtime)
}

func snapshotterSocket(ctx context.Context, n *Node) Result {
	c, r := n.zfsResult()
	if r != nil {
		return *r
	}
	const start = "systemctl enable --now pvelxc-snapshotter.socket"
	rows, err := countSnapshots(ctx, n.At(c.Address))
	if err != nil {
		return failure(start+"; journalctl -u pvelxc-snapshotter", "the snapshotter does not answer at %s: %v; containerd that starts before it has no CRI", c.Address, err).mendedBy(func(ctx context.Context) error {
			_, err := n.Run(ctx, "systemctl", "enable", "--now", "pvelxc-snapshotter.socket")
			return err
		})
	}
	return ok("the snapshotter has %d snapshots", rows)
}

// countSnapshots asks a snapshotter how many it has, in the namespaces that everybody uses.
func countSnapshots(ctx context.Context, address string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// A socket that is not there is told at once, and not after gRPC's attempts.
	probe, err := (&net.Dialer{}).DialContext(ctx, "unix", address)
	if err != nil {
		return 0, err
	}
	probe.Close()
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	// containerd's own names say which namespace, so that any of ours shows all.
	ctx = metadata.AppendToOutgoingContext(ctx, "containerd-namespace", "default")
	stream, err := snapshots.NewSnapshotsClient(conn).List(ctx, &snapshots.ListSnapshotsRequest{})
	if err != nil {
		return 0, err
	}
	rows := 0
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return 0, err
		}
		rows += len(part.Info)
	}
}

func exportsRoot(_ context.Context, n *Node) Result {
	if _, r := n.zfsResult(); r != nil {
		return *r
	}
	tree, err := n.dump()
	if err != nil {
		return skipped("containerd's configuration cannot be read (containerd-config says why)")
	}
	proxy := tree.ProxyTable()
	if proxy == nil {
		return warning("pvelxc install", "containerd does not know the snapshotter")
	}
	root := ctrd.Tree(proxy).Text("exports", "root")
	if root == "" {
		return warning("set exports.root in [proxy_plugins."+ctrd.Handler+"] to a directory on the pool", "the kubelet sees no capacity for images and never removes any: exports.root is missing")
	}
	if !n.Exists(root) {
		return failure("systemctl start pvelxc-snapshotter, or correct exports.root", "exports.root %s is not there: the kubelet reports image capacity 0", root)
	}
	return ok("exports.root is %s", root)
}

func cniConf(_ context.Context, n *Node) Result {
	dir, bins := "/etc/cni/net.d", []string{"/opt/cni/bin", "/usr/lib/cni"}
	if l, err := n.layout(); err == nil && l.Kind == "k3s" {
		dir, bins = "/var/lib/rancher/k3s/agent/etc/cni/net.d", []string{"/var/lib/rancher/k3s/data/current/bin", "/var/lib/rancher/k3s/data/cni"}
	}
	confs := append(append(n.Glob(dir+"/*.conflist"), n.Glob(dir+"/*.conf")...), n.Glob(dir+"/*.json")...)
	if len(confs) == 0 {
		if !n.Exists("/var/lib/kubelet") {
			return skipped("no network configuration in %s, and no kubelet that wants one", dir)
		}
		return failure("install the cluster's network add-on", "no network configuration in %s: pods stay in ContainerCreating", dir)
	}
	if !slices.ContainsFunc(bins, func(bin string) bool { return n.Exists(bin + "/loopback") }) {
		return failure("apt install containernetworking-plugins", "%s is there and its plugins are not in %s", confs[0], strings.Join(bins, " or "))
	}
	return ok("%s", filepath.Base(confs[0]))
}

func kubeletRuntimeClass(ctx context.Context, n *Node) Result {
	if !n.Exists("/var/lib/kubelet/config.yaml") && !n.Exists("/var/lib/rancher/k3s/agent/kubelet.kubeconfig") {
		return skipped("no kubelet on this node")
	}
	tree, err := n.dump()
	if err != nil {
		return skipped("containerd's configuration cannot be read (containerd-config says why)")
	}
	if driver, ok := n.kubeletDriver(); ok && driver == "systemd" != n.systemdCgroup(tree) {
		return warning("set systemd_cgroup = "+fmt.Sprint(driver == "systemd")+" in [runtime] of /etc/pvelxc/config.toml",
			"the kubelet's cgroup driver is %s and pvelxc's is not", driver)
	}
	for _, kubeconfig := range []string{"/etc/kubernetes/admin.conf", "/etc/rancher/k3s/k3s.yaml"} {
		if !n.Exists(kubeconfig) {
			continue
		}
		out, err := n.Run(ctx, "kubectl", "--kubeconfig", n.At(kubeconfig), "--request-timeout=5s", "get", "runtimeclasses", "-o", "jsonpath={.items[*].handler}")
		if err != nil {
			return warning("kubectl get runtimeclasses", "the API server cannot be asked: %v", err)
		}
		if !slices.Contains(strings.Fields(out), ctrd.Handler) {
			return warning("kubectl apply -f /usr/share/doc/pvelxc/examples/k8s/runtimeclass.yaml", "no RuntimeClass has the handler %s: no pod can name it", ctrd.Handler)
		}
		return ok("a RuntimeClass has the handler %s", ctrd.Handler)
	}
	return ok("the kubelet's cgroup driver fits; this node may not ask for RuntimeClasses")
}

// kubeletDriver is the kubelet's cgroup driver; k3s' is decided at run time.
func (n *Node) kubeletDriver() (string, bool) {
	text, err := n.Read("/var/lib/kubelet/config.yaml")
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(text) {
		if key, value, found := strings.Cut(line, ":"); found && key == "cgroupDriver" {
			return strings.Trim(strings.TrimSpace(value), `"'`), true
		}
	}
	return "cgroupfs", true // the kubelet's default
}

// systemdCgroup is what containers of the handler get: its own options over the node's file.
func (n *Node) systemdCgroup(tree ctrd.Tree) bool {
	options := ctrd.Tree(tree.RuntimeTable())
	for _, path := range [][]string{{"options", "SystemdCgroup"}, {"options", "runtime", "systemd_cgroup"}} {
		if v, ok := options.At(path...).(bool); ok {
			return v
		}
	}
	return n.Config.Runtime.SystemdCgroup
}

// Programs are those that must be of one version, by the name that the kernel cuts off.
var shimNames = []string{"containerd-shim-pvelxc-v2", "pvelxc-shim"}

func binarySkew(_ context.Context, n *Node) Result {
	old := 0
	for _, exe := range n.Glob("/proc/[0-9]*/exe") {
		target, err := os.Readlink(n.At(exe))
		if err != nil {
			continue // gone, or a thread of the kernel's
		}
		path, replaced := strings.CutSuffix(target, " (deleted)")
		if replaced && slices.Contains(shimNames, filepath.Base(path)) {
			old++
		}
	}
	if old > 0 {
		return warning("nothing is urgent: they go with their pods; drain the node to be done with them", "%d shims of a former version still run", old)
	}
	return ok("all shims are of the installed version")
}
