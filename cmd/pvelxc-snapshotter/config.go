package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

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
	// WarmLayers, WarmClones and ForeignSnapshots are those of snapshotter.Options.
	WarmLayers       int                 `toml:"warm_layers"`
	WarmClones       int                 `toml:"warm_clones"`
	ForeignSnapshots snapshotter.Foreign `toml:"foreign_snapshots"`
}

func defaultConfig() config {
	return config{
		Version: 1, State: "/var/lib/pvelxc-snapshotter", Address: "/run/pvelxc-snapshotter/snapshotter.sock",
		Containerd: "/run/containerd/containerd.sock", Backend: "auto", WarmLayers: 4, WarmClones: 1, ForeignSnapshots: snapshotter.KeepForeign,
	}
}

// parse reads a configuration over the defaults and checks it.
func parse(raw []byte) (config, error) {
	c := defaultConfig()
	d := toml.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) {
			return c, fmt.Errorf("unknown key:\n%s: %w", strict.String(), errdefs.ErrInvalidArgument)
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
	case !filepath.IsAbs(c.Containerd):
		return fmt.Errorf("containerd = %q: want the absolute path of its socket: %w", c.Containerd, errdefs.ErrInvalidArgument)
	case c.WarmLayers < 0 || c.WarmClones < 0 || c.WarmLayers*c.WarmClones > 1000:
		return fmt.Errorf("warm_layers = %d, warm_clones = %d: want numbers from 0 whose product is at most 1000: %w", c.WarmLayers, c.WarmClones, errdefs.ErrInvalidArgument)
	}
	if err := zfs.CheckName(c.Root); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}

// storageFile lists Proxmox VE's storages.
const storageFile = "/etc/pve/storage.cfg"

// checkStorage refuses a root that Proxmox VE takes for one of its volumes: the dataset of a zfspool storage, or a
// direct child of it, which it would list, and could destroy.
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
		if root == f[1] || zfs.Parent(root) == f[1] {
			return fmt.Errorf("root %s lies in Proxmox VE's storage %s (pool %s), which would take it for a volume (hint: a dataset beside it, or one level deeper): %w",
				root, name, f[1], errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
