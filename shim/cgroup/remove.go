package cgroup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Remove takes the container's and the monitor's groups away, with all that is
// below them, and the scope of the systemd driver. What does not exist is no
// error. What is still in the monitor's is killed: a child of liblxc may outlive its
// monitor, when that is killed in the middle of a start. It waits, until ctx ends, for
// processes that are just dying; if some remain the error names them and unwraps to errdefs.ErrFailedPrecondition. Parents
// stay: others may be about to use them.
func (g *Group) Remove(ctx context.Context) error {
	g.endWatches()
	paths := []string{g.config.Path, g.config.Monitor}
	if g.config.Systemd {
		paths = append(paths, g.config.Pivot)
	}
	var errs []error
	for _, path := range paths {
		for _, h := range g.hierarchies {
			if err := removeWhenEmpty(ctx, h.dir(path), path == g.config.Monitor); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if err := g.removeScope(ctx); err != nil {
		errs = append(errs, err)
	}
	if g.config.Systemd && len(errs) == 0 {
		for _, h := range g.hierarchies {
			errs = append(errs, removeWhenEmpty(ctx, h.dir(filepath.Dir(g.config.Path)), false))
		}
	}
	return errors.Join(errs...)
}

func removeWhenEmpty(ctx context.Context, dir string, kill bool) error {
	for pause := time.Millisecond / 4; ; pause = min(2*pause, 100*time.Millisecond) {
		err := removeAll(dir)
		if err == nil {
			return nil
		}
		// A dead process may hold its cgroup for a moment; ENOTEMPTY does not come
		// from cgroupfs, EBUSY is for children, too, that were made meanwhile.
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		if kill {
			if _, err := signalAll(dir, unix.SIGKILL); err != nil {
				return fmt.Errorf("remove cgroup %s: %w", dir, err)
			}
		}
		if sleep(ctx, pause) {
			continue
		}
		pids, listErr := allPids(dir)
		if listErr != nil || len(pids) == 0 {
			return fmt.Errorf("remove cgroup %s: %w: %w", dir, err, context.Cause(ctx))
		}
		return fmt.Errorf("remove cgroup %s: still used by processes %v (hint: they ignore SIGKILL only in uninterruptible sleep, see ps -o wchan): %w",
			dir, pids, errdefs.ErrFailedPrecondition)
	}
}
