package daemon

import (
	"fmt"
	"path/filepath"
	"strings"
)

// criPlugins are those that make a daemon a Kubernetes node.
var criPlugins = []string{
	"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri",
}

// CRI configures the services that a kubelet uses.
type CRI struct {
	SandboxImage string    // of the pause containers; it must be there before the first pod
	Handlers     []Handler // the first is the default
	NetworkDir   string    // holds the CNI configurations
	PluginDir    string    // holds the CNI plugins
	Proxies      []Proxy   // snapshotters that are processes of their own
	Snapshotter  string    // makes pods' root file systems; empty for overlayfs
}

// Handler is a runtime handler: what a RuntimeClass names.
type Handler struct {
	Name, Type  string
	Sandboxer   string // "podsandbox" or "shim"; empty for containerd's default. 1.7 does not have it for a handler.
	NetworkDir  string // holds the CNI configurations of its pods; empty for the node's
	Snapshotter string // makes its pods' root file systems; empty for the node's
	ConfigPath  string // is the file of its runtime options; empty for none
}

// Proxy is a snapshotter behind a socket.
type Proxy struct {
	Name, Address string
	Exports       string // what a kubelet asks for the capacity of images
	Differ        bool   // whether it unpacks too
}

// proxyConfig is that of dist/containerd, for another address.
const proxyConfig = `
[proxy_plugins.%[1]s]
  type = "snapshot"
  address = %[2]q
  capabilities = ["remap-ids"]
  [proxy_plugins.%[1]s.exports]
    root = %[3]q
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "overlayfs"
  differ = "walking"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "%[1]s"
  differ = %[4]q
`

const differConfig = `
[proxy_plugins.%[1]s-diff]
  type = "diff"
  address = %[2]q
[plugins."io.containerd.service.v1.diff-service"]
  default = ["%[1]s-diff", "walking"]
`

// NRISocket is where NRI plugins connect to a daemon with CRI.
func (d *Daemon) NRISocket() string { return filepath.Join(d.Dir, "nri.sock") }

// CDIDir is where a daemon with CRI looks for CDI specifications.
func (d *Daemon) CDIDir() string { return filepath.Join(d.Dir, "cdi") }

// criConfig is in the form of containerd 1.7, which 2.x migrates.
const criConfig = `
[plugins."io.containerd.nri.v1.nri"]
  disable = false
  socket_path = %q
  plugin_path = %q
  plugin_config_path = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  enable_cdi = true
  cdi_spec_dirs = [%q]
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  image_pull_progress_timeout = "10s"
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = %q
    bin_dir = %q
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = %q
`

func (c *CRI) config(d *Daemon) string {
	var b strings.Builder
	none := filepath.Join(d.Dir, "nri")
	fmt.Fprintf(&b, criConfig, d.NRISocket(), none, none, c.SandboxImage, d.CDIDir(), c.NetworkDir, c.PluginDir, c.Handlers[0].Name)
	if c.Snapshotter != "" {
		fmt.Fprintf(&b, "    snapshotter = %q\n", c.Snapshotter)
	}
	for _, h := range c.Handlers {
		options := "" // a table of their own, which must come last
		fmt.Fprintf(&b, "    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.%s]\n      runtime_type = %q\n", h.Name, h.Type)
		if h.Sandboxer != "" {
			fmt.Fprintf(&b, "      sandboxer = %q\n      disable_pause_image_pull = %v\n", h.Sandboxer, h.Sandboxer == "shim")
		}
		if h.ConfigPath != "" {
			options = fmt.Sprintf("      [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.%s.options]\n        ConfigPath = %q\n", h.Name, h.ConfigPath)
		}
		if h.NetworkDir != "" {
			fmt.Fprintf(&b, "      cni_conf_dir = %q\n", h.NetworkDir)
		}
		if h.Snapshotter != "" {
			fmt.Fprintf(&b, "      snapshotter = %q\n", h.Snapshotter)
		}
		b.WriteString(options)
	}
	for _, p := range c.Proxies {
		differ := "walking"
		if p.Differ {
			differ = p.Name + "-diff"
			fmt.Fprintf(&b, differConfig, p.Name, p.Address)
		}
		fmt.Fprintf(&b, proxyConfig, p.Name, p.Address, p.Exports, differ)
	}
	return b.String()
}
