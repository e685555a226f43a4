// Package node is a Kubernetes node without its kubelet: a containerd with CRI, two runtime handlers, a
// network of its own, and what a kubelet asks of it. It is for tests and benchmarks in the sandbox of
// package harness.
package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/image"
)

// Namespace is containerd's namespace of all that CRI makes.
const Namespace = "k8s.io"

// PluginDir is where Debian's containernetworking-plugins has its programs.
const PluginDir = "/usr/lib/cni"

// ShimSandboxes is our runtime with sandboxes that the shim holds itself, in the place of pause containers.
var ShimSandboxes = harness.Runtime{Name: "pvelxc-shim", Type: harness.Pvelxc.Type}

// Runtimes are the runtime handlers of a node; the reference is the default one.
func Runtimes(version daemon.Version) []harness.Runtime {
	if version == daemon.Containerd17 {
		return []harness.Runtime{harness.Runc, harness.Pvelxc}
	}
	return []harness.Runtime{harness.Runc, harness.Pvelxc, ShimSandboxes}
}

// handler is the configuration of a runtime handler.
func handler(r harness.Runtime) daemon.Handler {
	h := daemon.Handler{Name: r.Name, Type: r.Type}
	if r == ShimSandboxes {
		h.Sandboxer = "shim"
	}
	return h
}

// network is the pods' network: a bridge of the node's own.
const network = `{
  "cniVersion": "1.0.0", "name": "pods",
  "plugins": [
    {"type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
  ]
}
`

// Node is a running node.
type Node struct {
	*daemon.Daemon
	Runtime cri.RuntimeServiceClient
	Images  cri.ImageServiceClient

	conn   *grpc.ClientConn
	serial atomic.Int64
}

var archive = sync.OnceValues(image.Archive)

// Start runs a node below dir, with the test images. change, where not nil, may change its configuration.
func Start(ctx context.Context, dir string, version daemon.Version, change func(*daemon.CRI)) (*Node, error) {
	config := &daemon.CRI{SandboxImage: image.Pause, NetworkDir: filepath.Join(dir, "net.d"), PluginDir: PluginDir}
	for _, r := range Runtimes(version) {
		config.Handlers = append(config.Handlers, handler(r))
	}
	if change != nil {
		change(config)
	}
	if err := os.MkdirAll(config.NetworkDir, 0o711); err != nil {
		return nil, err
	}
	if config.NetworkDir == filepath.Join(dir, "net.d") {
		if err := os.WriteFile(filepath.Join(config.NetworkDir, "10-pods.conflist"), []byte(network), 0o600); err != nil {
			return nil, err
		}
	}
	d, err := harness.StartDaemon(ctx, dir, version, config)
	if err != nil {
		return nil, err
	}
	n := &Node{Daemon: d}
	if err := n.prepare(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Close ends the node.
func (n *Node) Close() error {
	err := n.Stop()
	if n.conn != nil {
		err = errors.Join(err, n.conn.Close())
	}
	return errors.Join(err, n.Client.Close())
}

// prepare connects, imports the images and waits until CRI knows them.
func (n *Node) prepare(ctx context.Context) (err error) {
	n.conn, err = grpc.NewClient("unix://"+n.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connect to CRI: %w", err)
	}
	n.Runtime, n.Images = cri.NewRuntimeServiceClient(n.conn), cri.NewImageServiceClient(n.conn)
	data, err := archive()
	if err != nil {
		return err
	}
	if _, err := n.Client.Import(namespaces.WithNamespace(ctx, Namespace), bytes.NewReader(data)); err != nil {
		return fmt.Errorf("import the test images: %w", err)
	}
	return n.Ready(ctx)
}

// Ready waits until CRI answers, has its network and knows the images.
func (n *Node) Ready(ctx context.Context) error {
	return daemon.Poll(ctx, func() error {
		status, err := n.Runtime.Status(ctx, &cri.StatusRequest{}, grpc.WaitForReady(true))
		if err != nil {
			return err
		}
		for _, c := range status.Status.Conditions {
			if !c.Status && (c.Type == cri.RuntimeReady || c.Type == cri.NetworkReady) {
				return fmt.Errorf("%s is false: %s: %s", c.Type, c.Reason, c.Message)
			}
		}
		for _, name := range []string{image.Busybox, image.Pause} {
			status, err := n.Images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
			if err != nil {
				return err
			}
			if status.Image == nil {
				return fmt.Errorf("CRI does not know the image %s", name)
			}
		}
		return nil
	})
}
