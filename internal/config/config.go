// Package config reads the node's configuration, /etc/pvelxc/config.toml, and what
// a runtime handler overrides of it through containerd's runtime options. It is
// strict: an unknown key is an error that names the file, the line and the key
// that was probably meant.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// DefaultPath is where the configuration is, unless EnvPath names another file.
const (
	DefaultPath = "/etc/pvelxc/config.toml"
	EnvPath     = "PVELXC_CONFIG"
)

// Version is the schema of the file that this program knows.
const Version = 1

// Registration says which containers Proxmox VE shows.
type Registration string

// The values of the key registration.
const (
	// RegisterContainers registers all but the pause containers of pods.
	RegisterContainers Registration = "containers"
	// RegisterAll registers pause containers too.
	RegisterAll Registration = "all"
	// RegisterNone registers nothing.
	RegisterNone Registration = "none"
)

// Config is the whole file.
type Config struct {
	// Version is the schema: 1.
	Version int `toml:"version"`
	// Registration is "containers", "all" or "none".
	Registration Registration `toml:"registration"`
	Runtime      Runtime      `toml:"runtime"`
	PVE          PVE          `toml:"pve"`
}

// Runtime is how containers are made.
type Runtime struct {
	// SystemdCgroup puts containers into systemd scopes; a cgroups path has the form
	// slice:prefix:name then. containerd's runc options set it for each container.
	SystemdCgroup bool `toml:"systemd_cgroup"`
	// NoNewKeyring leaves processes in the shim's session keyring.
	NoNewKeyring bool `toml:"no_new_keyring"`
	// ShimCgroup is an existing control group that a shim moves itself into before it
	// makes its first container; empty leaves it in containerd's. containerd's runc
	// options name it for a runtime handler.
	ShimCgroup string `toml:"shim_cgroup"`
	// Unprivileged puts containers that have no user namespace into one, with ids
	// 100000 to 165535 of the host, as PVE's unprivileged containers have.
	Unprivileged bool `toml:"unprivileged"`
	// LogLevel is liblxc's: TRACE, DEBUG, INFO, NOTICE, WARN, ERROR, CRIT.
	LogLevel string `toml:"log_level"`
}

// PVE is how containers are registered with Proxmox VE.
type PVE struct {
	// Root is where the cluster filesystem is; empty for /etc/pve where that exists,
	// else a local directory.
	Root string `toml:"root"`
	// Node is this node's name; empty for what the cluster says.
	Node string `toml:"node"`
	// VMIDRange is the VMIDs to give, "first-last", both included.
	VMIDRange string `toml:"vmid_range"`
	// Tags are given to every container.
	Tags []string `toml:"tags"`
	// Pool is the resource pool that containers are put into, empty for none.
	Pool string `toml:"pool"`
	// OnNoQuorum is "degrade" (start unregistered) or "fail".
	OnNoQuorum string `toml:"on_no_quorum"`
	// Grace is how old a conf without a container must be to be removed, such as
	// "2m": it covers the time between a reservation and the record of its container.
	Grace string `toml:"grace"`
	API   API    `toml:"api"`
}

// API is the REST API of Proxmox VE, for what its files cannot do: pools, the state of
// guests on other nodes, and who did what.
type API struct {
	// URL is https://host:port; empty for this node's own.
	URL string `toml:"url"`
	// TokenFile holds user@realm!name=secret and is root's alone; empty for no API.
	TokenFile string `toml:"token_file"`
	// CAFile holds the authority that signed the server's certificate; empty for
	// the cluster's own.
	CAFile string `toml:"ca_file"`
	// Fingerprint is the SHA-256 of the server's certificate, instead of an authority.
	Fingerprint string `toml:"fingerprint"`
}

// Default is the configuration of a node without a file.
func Default() Config {
	return Config{
		Version:      Version,
		Registration: RegisterContainers,
		Runtime:      Runtime{LogLevel: "WARN"},
		PVE:          PVE{OnNoQuorum: "degrade", Grace: "2m"},
	}
}

// Path is where the node's file is.
func Path() string {
	if path := os.Getenv(EnvPath); path != "" {
		return path
	}
	return DefaultPath
}

// Load reads the node's file; without one the defaults hold.
func Load() (Config, error) {
	path := Path()
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && path == DefaultPath {
		return Default(), nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	c := Default()
	c.Version = 0 // must be said
	if c, err = c.Override(path, text); err != nil {
		return Config{}, err
	}
	if c.Version == 0 {
		return Config{}, fmt.Errorf("%s: version is missing: %w (hint: the first line is: version = %d)", path, errdefs.ErrInvalidArgument, Version)
	}
	return c, nil
}

// Override returns c with what text sets; name is the file, for messages.
func (c Config) Override(name string, text []byte) (Config, error) {
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&c)
	var strict *toml.StrictMissingError
	var syntax *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		return Config{}, UnknownKeys[Config](name, strict)
	case errors.As(err, &syntax):
		row, column := syntax.Position()
		return Config{}, fmt.Errorf("%s:%d:%d: %s: %w", name, row, column, syntax.Error(), errdefs.ErrInvalidArgument)
	case err != nil:
		return Config{}, fmt.Errorf("%s: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	if err := c.check(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

func (c Config) check() error {
	if c.Version != 0 && c.Version != Version {
		return fmt.Errorf("version = %d: this program knows version %d: %w", c.Version, Version, errdefs.ErrInvalidArgument)
	}
	for _, v := range []struct{ key, value, allowed string }{
		{"registration", string(c.Registration), "containers all none"},
		{"pve.on_no_quorum", c.PVE.OnNoQuorum, "degrade fail"},
		{"runtime.log_level", c.Runtime.LogLevel, "TRACE DEBUG INFO NOTICE WARN ERROR CRIT"},
	} {
		if !oneOf(v.value, v.allowed) {
			return fmt.Errorf("%s = %q: must be one of %s: %w", v.key, v.value, strings.ReplaceAll(v.allowed, " ", ", "), errdefs.ErrInvalidArgument)
		}
	}
	if d, err := time.ParseDuration(c.PVE.Grace); err != nil || d <= 0 {
		return fmt.Errorf("pve.grace = %q: must be a duration above zero, such as 2m: %w", c.PVE.Grace, errdefs.ErrInvalidArgument)
	}
	if c.PVE.Pool != "" && c.PVE.API.TokenFile == "" {
		return fmt.Errorf("pve.pool = %q: files cannot change a pool: %w (hint: set token_file in [pve.api])", c.PVE.Pool, errdefs.ErrInvalidArgument)
	}
	return nil
}

func oneOf(value, allowed string) bool {
	for word := range strings.FieldsSeq(allowed) {
		if word == value {
			return true
		}
	}
	return false
}
