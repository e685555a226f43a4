package cgroup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

var errKilled = errors.New("the container is being killed")

// briefly bounds a freeze that only makes signals exact.
const briefly = 200 * time.Millisecond

// Freeze stops every process of the container, and returns when all have stopped.
// When ctx ends before that it lets them run again: a container that is half
// frozen is neither running nor paused.
func (g *Group) Freeze(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g.cancelFreeze.Store(&cancel)
	g.writing.Lock()
	defer g.writing.Unlock()
	if err := g.freeze(ctx); err != nil {
		return errors.Join(err, g.setFrozen(false))
	}
	return nil
}

// Thaw lets the processes run again.
func (g *Group) Thaw(context.Context) error {
	g.writing.Lock()
	defer g.writing.Unlock()
	return g.setFrozen(false)
}

// Frozen says whether the container is frozen, or about to be.
func (g *Group) Frozen() (bool, error) { return g.frozen() }

func (g *Group) frozen() (bool, error) {
	dir := g.freezer()
	if dir == "" {
		return false, nil
	}
	if g.mode != oci2lxc.CgroupUnified {
		state, err := readFile(dir, "freezer.state")
		return state != "THAWED" && err == nil, ignoreVanished(err)
	}
	// cgroup.events also tells of a frozen ancestor.
	own, err := readFile(dir, "cgroup.freeze")
	if err != nil || own == "1" {
		return own == "1", ignoreVanished(err)
	}
	effective, err := readKey(dir, "cgroup.events", "frozen")
	return effective == 1, ignoreVanished(err)
}

// freezer is the directory with the files of the freezer; empty when there is none.
func (g *Group) freezer() string {
	if g.mode == oci2lxc.CgroupUnified {
		return g.unified()
	}
	return g.v1("freezer")
}

func ignoreVanished(err error) error {
	if vanished(err) {
		return nil
	}
	return err
}

func (g *Group) freezeBriefly(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, briefly)
	defer cancel()
	return g.freeze(ctx) == nil
}

func (g *Group) freeze(ctx context.Context) error {
	dir := g.freezer()
	if dir == "" {
		return fmt.Errorf("freeze cgroup %s: there is no freezer for it: %w", g.config.Path, errdefs.ErrFailedPrecondition)
	}
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		// v1 stays at FREEZING when a process was added or forked at the wrong moment,
		// until the state is written again; on v2 writing again changes nothing.
		if err := g.setFrozen(true); err != nil {
			return err
		}
		done, err := g.isFrozen(dir)
		if done || err != nil {
			return err
		}
		if !sleep(ctx, pause) {
			return fmt.Errorf("freeze cgroup %s: not all processes stopped: %w", g.config.Path, context.Cause(ctx))
		}
	}
}

func (g *Group) isFrozen(dir string) (bool, error) {
	if g.mode == oci2lxc.CgroupUnified {
		frozen, err := readKey(dir, "cgroup.events", "frozen")
		return frozen == 1, err
	}
	state, err := readFile(dir, "freezer.state")
	return state == "FROZEN", err
}

// setFrozen asks for the state and does not wait for it. There is nothing to thaw
// where there is no freezer.
func (g *Group) setFrozen(frozen bool) error {
	dir := g.freezer()
	if dir == "" {
		return nil
	}
	name, value := "cgroup.freeze", "0"
	switch {
	case g.mode != oci2lxc.CgroupUnified && frozen:
		name, value = "freezer.state", "FROZEN"
	case g.mode != oci2lxc.CgroupUnified:
		name, value = "freezer.state", "THAWED"
	case frozen:
		value = "1"
	}
	err := writeFile(dir, name, value)
	if !frozen {
		return ignoreVanished(err)
	}
	return err
}

// Freezer is the directory of the control group that Freeze freezes; empty when there is none.
func (g *Group) Freezer() string { return g.members() }
