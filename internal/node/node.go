package node

import (
	"context"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/bootstrap"
	"github.com/pvelxc/pvelxc/shim/container"
	"github.com/pvelxc/pvelxc/shim/sandbox"
	"github.com/pvelxc/pvelxc/shim/server"
)

// Engine is what the shim program runs on.
func Engine() server.Engine {
	return server.Engine{Create: Create, Cleanup: Cleanup, Sandbox: Sandbox, Started: Started}
}

// Create makes a container with the node's settings, and those of its runtime
// handler over them. The file is read anew for each container, so that an edit
// holds for the next one.
func Create(ctx context.Context, cfg container.Config) (*container.Container, error) {
	conf, err := configFor(ctx, cfg.Options)
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", cfg.ID, err)
	}
	if cfg.Settings, err = settings(conf); err != nil {
		return nil, fmt.Errorf("create container %s: %w", cfg.ID, err)
	}
	if err := place(conf); err != nil {
		return nil, fmt.Errorf("create container %s: %w", cfg.ID, err)
	}
	if conf.Registration != config.RegisterNone {
		cfg.Registrar = &registrar{conf: conf}
	}
	return container.Create(ctx, cfg)
}

// Cleanup takes a container away whose shim is gone.
func Cleanup(ctx context.Context, cfg container.CleanupConfig) (container.Exit, error) {
	conf, err := config.Load()
	if err != nil {
		// A file that was broken since must not keep a container from being removed.
		conf = config.Default()
	}
	cfg.Registrar = &registrar{conf: conf}
	return container.Cleanup(ctx, cfg)
}

// Sandbox makes the sandbox of a pod with the node's settings, and those of its runtime handler over them.
func Sandbox(ctx context.Context, cfg sandbox.Config) (*sandbox.Sandbox, error) {
	options, err := optionsIn(bootstrap.ReadInput(cfg.Bundle), cfg.ID)
	if err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", cfg.ID, err)
	}
	conf, err := configFor(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", cfg.ID, err)
	}
	if cfg.Settings, err = settings(conf); err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", cfg.ID, err)
	}
	if err := place(conf); err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", cfg.ID, err)
	}
	return sandbox.New(ctx, cfg)
}

// settings are the engine's part of a configuration.
func settings(conf config.Config) (container.Settings, error) {
	s, err := container.DefaultSettings()
	if err != nil {
		return s, err
	}
	return settingsOf(conf, s), nil
}

func settingsOf(conf config.Config, s container.Settings) container.Settings {
	s.SystemdCgroup = conf.Runtime.SystemdCgroup
	s.NoNewKeyring = conf.Runtime.NoNewKeyring
	s.LogLevel = conf.Runtime.LogLevel
	if conf.Runtime.Unprivileged {
		s.Unprivileged = unprivilegedMap()
	}
	return s
}

// unprivilegedMap is the range that Proxmox VE's own unprivileged containers have
// (root:100000:65536 in /etc/subuid).
func unprivilegedMap() *oci2lxc.IDMap {
	m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	return &oci2lxc.IDMap{UIDs: m, GIDs: m}
}
