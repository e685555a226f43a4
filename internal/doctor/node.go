package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/internal/ctrd"
	"github.com/pvelxc/pvelxc/internal/host"
	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/pve"
)

// Node is the machine that is looked at. What several checks need is read once.
type Node struct {
	*host.Host
	// Config is the node's configuration.
	Config config.Config
	// Containers are this node's.
	Containers func() ([]node.Container, error)
	// Statfs is statfs(2), of a path on the machine.
	Statfs func(path string) (unix.Statfs_t, error)

	layout  func() (ctrd.Layout, error)
	dump    func() (ctrd.Tree, error)
	cluster func() (cluster, error)
}

// New prepares a look at a machine. ctx must live as long as the look.
func New(ctx context.Context, h *host.Host, conf config.Config) *Node {
	n := &Node{Host: h, Config: conf, Containers: node.Containers, Statfs: func(path string) (st unix.Statfs_t, err error) {
		err = unix.Statfs(h.At(path), &st)
		return st, err
	}}
	n.layout = sync.OnceValues(func() (ctrd.Layout, error) { return ctrd.Find(ctx, h) })
	n.dump = sync.OnceValues(func() (ctrd.Tree, error) {
		l, err := n.layout()
		if err != nil {
			return nil, err
		}
		return l.Dump(ctx, h, l.Live)
	})
	n.cluster = sync.OnceValues(n.readCluster)
	return n
}

// snapshotterConfig is the part of snapshotter.toml that concerns the node.
type snapshotterConfig struct {
	Root       string `toml:"root"`
	Address    string `toml:"address"`
	WarmLayers int    `toml:"warm_layers"`
	WarmClones int    `toml:"warm_clones"`
}

// SnapshotterFile is the configuration of pvelxc-snapshotter.
const SnapshotterFile = "/etc/pvelxc/snapshotter.toml"

// snapshotter reads it; ok is false on a node that does not use ZFS.
func (n *Node) snapshotter() (c snapshotterConfig, ok bool, err error) {
	c = snapshotterConfig{Address: "/run/pvelxc-snapshotter/snapshotter.sock", WarmLayers: 4, WarmClones: 1}
	if !n.Exists(SnapshotterFile) {
		return c, false, nil
	}
	text, err := n.Read(SnapshotterFile)
	if err == nil {
		err = toml.Unmarshal([]byte(text), &c)
	}
	if err != nil {
		return c, true, fmt.Errorf("%s: %w", SnapshotterFile, err)
	}
	return c, c.Root != "", nil
}

// SnapshotterAddress is the socket of a machine's snapshotter; empty where containers are on another.
func SnapshotterAddress(h *host.Host) (string, error) {
	c, used, err := (&Node{Host: h}).snapshotter()
	if err != nil || !used {
		return "", err
	}
	return h.At(c.Address), nil
}

// clusterDir is where the cluster file system is, or should be.
func (n *Node) clusterDir() string {
	if n.Config.PVE.Root != "" {
		return n.Config.PVE.Root
	}
	return pve.DefaultRoot
}

// isPVE says whether the machine is a node of Proxmox VE: without it, registration goes to a
// plain directory.
func (n *Node) isPVE() bool {
	dir := n.clusterDir()
	if dir == pve.DefaultRoot {
		return n.Exists(dir)
	}
	st, err := n.Statfs(dir)
	return err == nil && st.Type == unix.FUSE_SUPER_MAGIC
}

var noPVE = skipped("not a node of Proxmox VE: containers are registered in %s", pve.DefaultLocal)

// vmidRange is the one that is configured.
func (n *Node) vmidRange() (pve.Range, error) {
	if n.Config.PVE.VMIDRange == "" {
		return pve.DefaultRange, nil
	}
	return pve.ParseRange(n.Config.PVE.VMIDRange)
}

// cluster is what pmxcfs says of itself.
type cluster struct {
	// Members is .members: name and quorum; a single node has no name.
	Members struct {
		Node    string `json:"nodename"`
		Cluster *struct {
			Name    string `json:"name"`
			Nodes   int    `json:"nodes"`
			Quorate int    `json:"quorate"`
		} `json:"cluster"`
		Nodes map[string]struct {
			Online int `json:"online"`
		} `json:"nodelist"`
	}
	// Guests is .vmlist.
	Guests struct {
		IDs map[string]struct {
			Node string `json:"node"`
			Type string `json:"type"`
		} `json:"ids"`
	}
}

// readCluster takes what is there: .members is missing in nothing but an emulation.
func (n *Node) readCluster() (c cluster, err error) {
	for name, into := range map[string]any{".members": &c.Members, ".vmlist": &c.Guests} {
		text, err := n.Read(filepath.Join(n.clusterDir(), name))
		if name == ".members" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return c, err
		}
		if err := json.Unmarshal([]byte(text), into); err != nil {
			return c, fmt.Errorf("%s/%s: %w", n.clusterDir(), name, err)
		}
	}
	return c, nil
}
