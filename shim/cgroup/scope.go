package cgroup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"
	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// PrepareScope asks systemd for the scope, with monitorPid as its only process,
// before liblxc starts. Without the systemd driver it does nothing.
//
// Only what competes with other units is a property of the scope: weights and
// protected memory, which mean nothing in a delegated cgroup below it. The hard
// limits are the leaf's alone; in the scope they would count the monitor, too, and
// could kill it.
func (g *Group) PrepareScope(ctx context.Context, monitorPid int) error {
	if !g.config.Systemd {
		return nil
	}
	properties := []systemd.Property{
		systemd.PropDescription("pvelxc container " + g.config.Scope),
		systemd.PropSlice(filepath.Base(g.config.Slice)),
		property("PIDs", []uint32{uint32(monitorPid)}),
		property("Delegate", true),
		property("DefaultDependencies", false),
		property("CPUAccounting", true),
		property("MemoryAccounting", true),
		property("IOAccounting", true),
		property("TasksAccounting", true),
		// DefaultTasksMax= is for services, not for what the leaf allows.
		property("TasksMax", ^uint64(0)),
		property("CollectMode", "inactive-or-failed"),
	}
	shared, err := g.scopeProperties(g.config.Resources)
	if err != nil {
		return err
	}
	return withSystemd(ctx, func(conn *systemd.Conn) error {
		start := func() error {
			done := make(chan string, 1)
			if _, err := conn.StartTransientUnitContext(ctx, g.config.Scope, "fail", append(properties, shared...), done); err != nil {
				return err
			}
			return awaitJob(ctx, done)
		}
		err := start()
		if isDBus(err, "org.freedesktop.systemd1.UnitExists") {
			// Left behind by a crash: systemd keeps failed units' names.
			_ = conn.ResetFailedUnitContext(ctx, g.config.Scope)
			err = start()
		}
		if isDBus(err, "org.freedesktop.systemd1.UnitExists") {
			return fmt.Errorf("start %s: it exists already (hint: systemctl status %s): %w", g.config.Scope, g.config.Scope, errdefs.ErrAlreadyExists)
		}
		if err != nil {
			return fmt.Errorf("start %s in %s: %w", g.config.Scope, g.config.Slice, err)
		}
		return nil
	})
}

// updateScope changes the properties of the scope that r sets.
func (g *Group) updateScope(ctx context.Context, r *specs.LinuxResources) error {
	if !g.config.Systemd {
		return nil
	}
	properties, err := g.scopeProperties(r)
	if err != nil || len(properties) == 0 {
		return err
	}
	return withSystemd(ctx, func(conn *systemd.Conn) error {
		if err := conn.SetUnitPropertiesContext(ctx, g.config.Scope, true, properties...); err != nil {
			return fmt.Errorf("set properties of %s: %w", g.config.Scope, err)
		}
		return nil
	})
}

func (g *Group) scopeProperties(r *specs.LinuxResources) ([]systemd.Property, error) {
	if r == nil {
		return nil, nil
	}
	converted, err := convert(oci2lxc.CgroupUnified, r)
	if err != nil {
		return nil, err
	}
	var properties []systemd.Property
	if converted.CPUIdle != nil && *converted.CPUIdle == 1 {
		// systemd.resource-control(5): CPUWeight=idle.
		properties = append(properties, property("CPUWeight", uint64(0)))
	} else if converted.CpuWeight != 0 {
		properties = append(properties, property("CPUWeight", converted.CpuWeight))
	}
	if converted.BlkioWeight != 0 {
		properties = append(properties, property("IOWeight", cgroups.ConvertBlkIOToIOWeightValue(converted.BlkioWeight)))
	}
	if converted.MemoryReservation != 0 {
		properties = append(properties, property("MemoryLow", uint64(converted.MemoryReservation)))
	}
	return properties, nil
}

// removeScope stops the scope, if it still is there, and forgets its failure.
func (g *Group) removeScope(ctx context.Context) error {
	if !g.config.Systemd {
		return nil
	}
	return withSystemd(ctx, func(conn *systemd.Conn) error {
		done := make(chan string, 1)
		_, err := conn.StopUnitContext(ctx, g.config.Scope, "replace", done)
		if err == nil {
			err = awaitJob(ctx, done)
		}
		if err != nil && !isDBus(err, "org.freedesktop.systemd1.NoSuchUnit") {
			return fmt.Errorf("stop %s: %w", g.config.Scope, err)
		}
		// The unit is unknown when it did not fail.
		_ = conn.ResetFailedUnitContext(ctx, g.config.Scope)
		return nil
	})
}

// withSystemd opens a connection for the time of one request: one that is kept
// would cost every shim a goroutine and its buffers for a few uses.
func withSystemd(ctx context.Context, use func(*systemd.Conn) error) error {
	conn, err := systemd.NewWithContext(ctx)
	if err != nil {
		return fmt.Errorf("connect to systemd (hint: without systemd as PID 1 set SystemdCgroup = false): %w: %w", err, errdefs.ErrUnavailable)
	}
	defer conn.Close()
	return use(conn)
}

// awaitJob waits for the end of a job (org.freedesktop.systemd1(5), JobRemoved).
func awaitJob(ctx context.Context, done <-chan string) error {
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("systemd's job ended with %q", result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for systemd's job: %w", context.Cause(ctx))
	}
}

func isDBus(err error, name string) bool {
	var dbusError dbus.Error
	return errors.As(err, &dbusError) && dbusError.Name == name
}

func property(name string, value any) systemd.Property {
	return systemd.Property{Name: name, Value: dbus.MakeVariant(value)}
}
