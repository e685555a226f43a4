// Package ctrd knows how containerd is laid out on a machine: the distribution's, and the
// one inside k3s; with the configuration schemas of containerd 1.7 (2) and 2.x (3 and 4).
package ctrd

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/pvelxc/pvelxc/internal/host"
)

// Names of things in containerd's configuration.
const (
	// Handler is the name of the runtime handler and of the snapshotter.
	Handler = "pvelxc"
	// Runtime is the runtime's type.
	Runtime = "io.containerd.pvelxc.v2"
)

// Layout is where a containerd has its parts.
type Layout struct {
	// Kind is "containerd" or "k3s".
	Kind string
	// Binary is the daemon, Ctr the client: a command and its first arguments.
	Binary string
	Ctr    []string
	// Unit is systemd's, Socket the gRPC address.
	Unit, Socket string
	// Config is the file that an administrator edits, and Live the one that the daemon
	// reads: k3s makes the latter from the former.
	Config, Live string
	// Schema is the version of the configuration's format: 2, 3 or 4.
	Schema int
	// Version is the daemon's, such as "2.1.4"; empty when it cannot be asked.
	Version string
}

// newest is the newest schema that is known, that of containerd 2.4.
const newest = 4

const (
	k3sDir     = "/var/lib/rancher/k3s/agent/etc/containerd"
	k3sBinary  = "/var/lib/rancher/k3s/data/current/bin/containerd"
	stockMain  = "/etc/containerd/config.toml"
	stockPlace = "/run/containerd/containerd.sock"
)

var version = regexp.MustCompile(`\bv?([0-9]+)\.([0-9]+)\.([0-9]+)`)

// Find finds the containerd of a machine. Where both are, the one of k3s is taken, since the
// kubelet's containers are there.
func Find(ctx context.Context, h *host.Host) (Layout, error) {
	if h.Exists(k3sDir) {
		return findK3s(ctx, h)
	}
	l := Layout{
		Kind: "containerd", Binary: "containerd", Ctr: []string{"ctr"}, Unit: "containerd.service",
		Socket: stockPlace, Config: stockMain, Live: stockMain,
	}
	out, err := h.Run(ctx, l.Binary, "--version")
	if err != nil {
		return l, fmt.Errorf("find containerd: %w (hint: apt install containerd)", err)
	}
	l.Version = strings.TrimPrefix(version.FindString(out), "v")
	if l.Schema, err = schema(h, l.Config); err != nil {
		return l, err
	}
	if l.Schema == 0 {
		l.Schema = 3
		if l.Major() == 1 {
			l.Schema = 2
		}
	}
	return l, nil
}

// Major and Minor are those of Version; 0 when it is unknown.
func (l Layout) Major() int { return l.number(1) }

// Minor is the second number of Version.
func (l Layout) Minor() int { return l.number(2) }

func (l Layout) number(i int) int {
	m := version.FindStringSubmatch(l.Version)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(m[i])
	if err != nil {
		return 0
	}
	return n
}

func findK3s(ctx context.Context, h *host.Host) (Layout, error) {
	l := Layout{
		Kind: "k3s", Binary: k3sBinary, Ctr: []string{"k3s", "ctr"}, Unit: "k3s.service",
		Socket: "/run/k3s/containerd/containerd.sock", Live: k3sDir + "/config.toml", Schema: 2,
	}
	if !h.Exists("/etc/systemd/system/k3s.service") && h.Exists("/etc/systemd/system/k3s-agent.service") {
		l.Unit = "k3s-agent.service"
	}
	// A k3s with containerd 2 generates schema 3, and then prefers the template of that name.
	live, err := schema(h, l.Live)
	if err != nil {
		return l, err
	}
	l.Config = k3sDir + "/config.toml.tmpl"
	if live > 2 {
		l.Schema, l.Config = live, k3sDir+"/config-v3.toml.tmpl"
	}
	// k3s is asked last: what it is laid out like is known without it.
	if out, err := h.Run(ctx, l.Binary, "--version"); err == nil {
		l.Version = strings.TrimPrefix(version.FindString(out), "v")
	}
	return l, nil
}

// schema is the version that a configuration says it has; 0 when there is no file.
func schema(h *host.Host, path string) (int, error) {
	text, err := h.Read(path)
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("containerd's configuration: %w", err)
	}
	var c struct {
		Version int `toml:"version"`
	}
	if err := toml.Unmarshal([]byte(text), &c); err != nil {
		return 0, fmt.Errorf("containerd's configuration %s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	if c.Version < 2 || c.Version > newest {
		return 0, fmt.Errorf("containerd's configuration %s has version %d: %w (hint: migrate it: containerd config migrate)", path, c.Version, errdefs.ErrNotImplemented)
	}
	return c.Version, nil
}

// Tree is a configuration as tables.
type Tree map[string]any

// Dump asks the daemon's binary for all that is in force with the configuration at path.
func (l Layout) Dump(ctx context.Context, h *host.Host, path string) (Tree, error) {
	// containerd 1.7 dumps no defaults, and runs with them.
	args := []string{"config", "default"}
	if h.Exists(path) {
		args = []string{"--config", h.At(path), "config", "dump"}
	}
	out, err := h.Run(ctx, l.Binary, args...)
	if err != nil {
		return nil, fmt.Errorf("containerd does not take its configuration: %w", err)
	}
	var t Tree
	if err := toml.Unmarshal([]byte(out), &t); err != nil {
		return nil, fmt.Errorf("read what containerd config dump prints: %w", err)
	}
	return t, nil
}

// CRI is the name of the plugin that has the runtimes, in a configuration of a schema.
func CRI(schema int) string {
	if schema == 2 {
		return "io.containerd.grpc.v1.cri"
	}
	return "io.containerd.cri.v1.runtime"
}

// At is the table or value at a path; nil when there is none.
func (t Tree) At(path ...string) any {
	var v any = map[string]any(t)
	for _, key := range path {
		table, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = table[key]
	}
	return v
}

// Text is the string at a path; empty when there is none.
func (t Tree) Text(path ...string) string {
	s, _ := t.At(path...).(string)
	return s
}

// RuntimeTable is the table of our runtime handler, wherever the schema has it; nil for none.
func (t Tree) RuntimeTable() map[string]any {
	for _, schema := range []int{2, 3} {
		if table, ok := t.At("plugins", CRI(schema), "containerd", "runtimes", Handler).(map[string]any); ok {
			return table
		}
	}
	return nil
}

// ProxyTable is the table of our snapshotter; nil for none.
func (t Tree) ProxyTable() map[string]any {
	table, _ := t.At("proxy_plugins", Handler).(map[string]any)
	return table
}
