package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	settings "github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// config is the file /etc/pvelxc/snapshotter.toml. A key that is not here is an error.
type config struct {
	// Version is 1.
	Version int `toml:"version"`
	// Root is the dataset for everything; no default.
	Root string `toml:"root"`
	// State is the directory of metadata.db.
	State string `toml:"state"`
	// Address is the socket, unless systemd passes one.
	Address string `toml:"address"`
	// Containerd is containerd's socket, for the blobs of the Diff service.
	Containerd string `toml:"containerd"`
	// Backend is auto, ioctl or cli.
	Backend string `toml:"backend"`
	// Metrics is a TCP address for Prometheus, or "".
	Metrics string `toml:"metrics"`
	// LogLevel is one of log.SetLevel: trace, debug, info, warn, error.
	LogLevel string `toml:"log_level"`
	// WarmLayers, WarmClones and ForeignSnapshots are those of snapshotter.Options.
	WarmLayers       int                 `toml:"warm_layers"`
	WarmClones       int                 `toml:"warm_clones"`
	ForeignSnapshots snapshotter.Foreign `toml:"foreign_snapshots"`
	// ShareLayers is that of snapshotter.Options.
	ShareLayers bool `toml:"share_layers"`
}

func defaultConfig() config {
	return config{
		Version: 1, State: "/var/lib/pvelxc-snapshotter", Address: "/run/pvelxc-snapshotter/snapshotter.sock",
		Containerd: "/run/containerd/containerd.sock", Backend: "auto", LogLevel: "info", WarmLayers: 4, WarmClones: 1, ForeignSnapshots: snapshotter.KeepForeign,
	}
}

// load reads a file and checks it against this node as well.
func load(file string) (config, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return config{}, fmt.Errorf("configuration: %w", err)
	}
	c, err := parse(file, raw)
	if err == nil {
		err = checkStorage(c.Root, storageFile)
	}
	if err != nil {
		return c, fmt.Errorf("configuration %s: %w", file, err)
	}
	return c, nil
}

// parse reads a configuration over the defaults and checks it. name is for errors.
func parse(name string, raw []byte) (config, error) {
	c := defaultConfig()
	d := toml.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) {
			return c, settings.UnknownKeys[config](name, strict)
		}
		return c, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return c, c.check()
}

func (c config) check() error {
	switch {
	case c.Version != 1:
		return fmt.Errorf("version = %d: this program knows version 1: %w", c.Version, errdefs.ErrInvalidArgument)
	case c.Root == "":
		return fmt.Errorf("root is missing (hint: root = \"rpool/pvelxc\"): %w", errdefs.ErrInvalidArgument)
	case c.WarmLayers < 0 || c.WarmClones < 0 || c.WarmLayers*c.WarmClones > 1000:
		return fmt.Errorf("warm_layers = %d, warm_clones = %d: want numbers from 0 whose product is at most 1000: %w", c.WarmLayers, c.WarmClones, errdefs.ErrInvalidArgument)
	}
	if err := zfs.CheckName(c.Root); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if !slices.Contains(levels, c.LogLevel) {
		return fmt.Errorf("log_level = %q: want one of %s: %w", c.LogLevel, strings.Join(levels, ", "), errdefs.ErrInvalidArgument)
	}
	for key, path := range map[string]string{"state": c.State, "address": c.Address, "containerd": c.Containerd} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("%s = %q: want an absolute path: %w", key, path, errdefs.ErrInvalidArgument)
		}
	}
	if !slices.Contains([]string{"auto", "ioctl", "cli"}, c.Backend) {
		return fmt.Errorf("backend = %q: want auto, ioctl or cli: %w", c.Backend, errdefs.ErrInvalidArgument)
	}
	if c.ForeignSnapshots != snapshotter.KeepForeign && c.ForeignSnapshots != snapshotter.DestroyForeign {
		return fmt.Errorf("foreign_snapshots = %q: want keep or destroy: %w", c.ForeignSnapshots, errdefs.ErrInvalidArgument)
	}
	return nil
}

var levels = []string{"trace", "debug", "info", "warn", "error"}

// storageFile lists Proxmox VE's storages. It changes in tests.
var storageFile = "/etc/pve/storage.cfg"

// checkStorage refuses a root that Proxmox VE takes for one of its volumes: the dataset of a zfspool storage, or a
// direct child of it, which it would list, and could destroy; and one that has a storage inside.
func checkStorage(root, file string) error {
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	var name string
	inPool := false
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		line := lines.Text()
		if kind, id, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "\t") {
			name, inPool = strings.TrimSpace(id), kind == "zfspool"
			continue
		}
		f := strings.Fields(line)
		if !inPool || len(f) != 2 || f[0] != "pool" {
			continue
		}
		if root == f[1] || zfs.Parent(root) == f[1] || strings.HasPrefix(f[1], root+"/") {
			return fmt.Errorf("root %s lies in Proxmox VE's storage %s (pool %s), which would take it for a volume (hint: a dataset beside it, or one level deeper): %w",
				root, name, f[1], errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
