package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// Leftover is the groups that a container has left, by whose names they can be told from other people's.
type Leftover struct {
	// Namespace and ID are the container's.
	Namespace, ID string
	// Paths are the groups, relative to the roots of the hierarchies that have them.
	Paths []string
	// Processes counts who is in them: groups with processes are not removed.
	Processes int

	hierarchies []hierarchy
}

// Leftovers finds the groups of containers that known denies, in all hierarchies of the host: the monitor's, which has our
// name in it, and beside that of such a container its own where it is empty. A group that is younger than grace may be
// that of a container which is being made, and is left out.
//
// With the systemd driver there is nothing to find: systemd removes an empty scope with all that is below it.
func Leftovers(mode oci2lxc.CgroupMode, grace time.Duration, known func(namespace, id string) bool) ([]Leftover, error) {
	all, err := hierarchies(mode)
	if err != nil {
		return nil, err
	}
	found := map[string]*Leftover{}
	for _, h := range all {
		names, err := os.ReadDir(h.dir(oci2lxc.MonitorGroup))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list the groups of monitors: %w", err)
		}
		for _, name := range names {
			namespace, id, ok := strings.Cut(name.Name(), "--")
			if !name.IsDir() || !ok || namespace == "" || id == "" || known(namespace, id) {
				continue
			}
			if found[name.Name()] == nil {
				found[name.Name()] = &Leftover{Namespace: namespace, ID: id, hierarchies: all}
			}
		}
	}
	var list []Leftover
	for name, l := range found {
		// Where the clients of containerd put a container, and where we do without their word.
		for _, p := range []string{path.Join(oci2lxc.MonitorGroup, name), path.Join(oci2lxc.OwnGroup, l.Namespace, l.ID), path.Join(l.Namespace, l.ID)} {
			if err := l.add(p, grace); err != nil {
				return nil, err
			}
		}
		if len(l.Paths) > 0 {
			list = append(list, *l)
		}
	}
	return list, nil
}

// add takes a path in if any hierarchy has it.
func (l *Leftover) add(p string, grace time.Duration) error {
	there, young := false, false
	processes := 0
	for _, h := range l.hierarchies {
		info, err := os.Lstat(h.dir(p))
		if err != nil || !info.IsDir() {
			continue
		}
		there = true
		young = young || time.Since(info.ModTime()) < grace
		pids, err := allPids(h.dir(p))
		if err != nil {
			return err
		}
		processes = max(processes, len(pids))
	}
	ours := strings.HasPrefix(p, oci2lxc.MonitorGroup+"/") || strings.HasPrefix(p, oci2lxc.OwnGroup+"/")
	if !there || young || processes > 0 && !ours {
		return nil
	}
	l.Paths = append(l.Paths, p)
	l.Processes += processes
	return nil
}

// Remove takes the groups away. It fails where processes are in one by now.
func (l Leftover) Remove(ctx context.Context) error {
	var errs []error
	for _, p := range l.Paths {
		for _, h := range l.hierarchies {
			errs = append(errs, removeWhenEmpty(ctx, h.dir(p), false))
		}
	}
	return errors.Join(errs...)
}
