package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pvelxc/pvelxc/integration/daemon"
)

// surroundings are the directories outside the demo's own that a shim writes to, with whether they
// were there before.
type surroundings map[string]bool

func look() surroundings {
	found := make(surroundings)
	for _, dir := range []string{"/run/pvelxc", "/run/containerd", "/run/lxc", "/var/lib/pvelxc"} {
		_, err := os.Stat(dir)
		found[dir] = err == nil
	}
	return found
}

// strike takes the stage down and looks whether anything is left of it. It runs however the demo
// ended, so it has a time limit of its own.
func (s *stage) strike() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s.out.title("Clean up")
	if s.daemon != nil {
		if s.daemon.Client != nil {
			s.removeContainer(ctx)
		}
		if err := s.daemon.Stop(); err != nil {
			s.out.note("%v", err)
		}
	}
	_ = os.RemoveAll(s.lxcPath())
	for dir, existed := range s.before {
		if !existed {
			_ = os.RemoveAll(dir)
		}
	}
	left := daemon.Poll(ctx, func() error {
		s.removeCgroups()
		if remains := s.remains(); len(remains) > 0 {
			return fmt.Errorf("left behind:\n  %s", strings.Join(remains, "\n  "))
		}
		return nil
	})
	if left != nil {
		return left
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove the demo's directory: %w", err)
	}
	s.out.done("Nothing is left: no process, mount, control group or file of the demo.")
	return nil
}

// removeContainer removes what an interrupted demo left running.
func (s *stage) removeContainer(ctx context.Context) {
	if running, err := s.running(ctx); err == nil && running {
		_, _ = s.run(ctx, []string{"ctr", "task", "kill", "--all", "--signal", "SIGKILL", container})
	}
	_ = daemon.Poll(ctx, func() error {
		running, err := s.running(ctx)
		if err == nil && running {
			err = errors.New("running")
		}
		return err
	})
	_, _ = s.run(ctx, []string{"ctr", "task", "delete", "--force", container})
	_, _ = s.run(ctx, []string{"ctr", "container", "delete", container})
}

// remains lists processes, mounts and control groups that carry the demo's name.
func (s *stage) remains() []string {
	var left []string
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range cmdlines {
		pid := filepath.Base(filepath.Dir(path))
		if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), s.dir) && pid != fmt.Sprint(os.Getpid()) {
			left = append(left, "process "+pid+": "+strings.ReplaceAll(string(data), "\x00", " "))
		}
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err == nil {
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, s.namespace) {
				left = append(left, "mount "+strings.TrimSpace(line))
			}
		}
	}
	for _, group := range s.cgroups() {
		left = append(left, "control group "+group)
	}
	return left
}

func (s *stage) cgroups() []string {
	var found []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && strings.Contains(path, s.namespace) {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// removeCgroups removes the empty groups of the demo's containerd namespace, the deepest first: the
// container's own are the shim's to remove, their parent is nobody's.
func (s *stage) removeCgroups() {
	groups := s.cgroups()
	for i := len(groups) - 1; i >= 0; i-- {
		_ = os.Remove(groups[i])
	}
}
