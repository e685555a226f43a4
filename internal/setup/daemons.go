package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aymanbagabas/go-udiff"
	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/internal/ctrd"
	"github.com/pvelxc/pvelxc/internal/doctor"
)

func (s *Setup) want() ctrd.Want {
	if s.Dataset == "" {
		return ctrd.Want{}
	}
	// containerd 1.7 asks a differ behind a socket without a namespace, which ours needs.
	return ctrd.Want{Socket: snapshotterSocket, Exports: exportsRoot, Differ: s.layout.Major() >= 2}
}

func (s *Setup) planContainerd(ctx context.Context) (string, error) {
	edits, err := s.layout.Plan(ctx, s.Host, s.want())
	if err != nil {
		return "", err
	}
	s.edits = edits
	return s.showEdits(), nil
}

func (s *Setup) showEdits() string {
	var b strings.Builder
	for _, e := range s.edits {
		from, to := e.Path, e.Path
		if e.Before == nil {
			from = "/dev/null"
		}
		if e.After == nil {
			to = "/dev/null"
		}
		b.WriteString(udiff.Unified(from, to, string(e.Before), string(e.After)))
	}
	return b.String()
}

func (s *Setup) applyEdits(context.Context) error {
	for _, e := range s.edits {
		if err := s.put(e.Path, e.After); err != nil {
			return fmt.Errorf("write %s: %w", e.Path, err)
		}
	}
	return nil
}

// undoEdits puts the files back, and a containerd that has read the others reads these again.
func (s *Setup) undoEdits(ctx context.Context) error {
	var errs []error
	for _, e := range s.edits {
		errs = append(errs, s.put(e.Path, e.Before))
	}
	if s.restarted {
		errs = append(errs, s.systemctl("restart", s.layout.Unit)(ctx))
	}
	return errors.Join(errs...)
}

// put writes a file with the mode that it has; nil removes it.
func (s *Setup) put(path string, data []byte) error {
	if data == nil {
		if err := os.Remove(s.At(path)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	mode := os.FileMode(0o644)
	if info, err := os.Stat(s.At(path)); err == nil {
		mode = info.Mode().Perm()
	}
	return s.Write(path, data, mode)
}

// dumpParses asks containerd for what is in force, with the files that are there now. k3s makes
// its file from the template only when it starts.
func (s *Setup) dumpParses(ctx context.Context) (string, error) {
	tree, err := s.layout.Dump(ctx, s.Host, s.layout.Live)
	if err != nil {
		return "", err
	}
	if s.layout.Kind == "containerd" && (tree.RuntimeTable() == nil || s.Dataset != "" && tree.ProxyTable() == nil) {
		return "", fmt.Errorf("containerd config dump does not show what was added to %s: %w", s.layout.Config, errdefs.ErrInternal)
	}
	return "", nil
}

func (s *Setup) stillParses(ctx context.Context) (string, error) {
	_, err := s.layout.Dump(ctx, s.Host, s.layout.Live)
	return "", err
}

// active says whether a unit is in a state that systemctl asks for with verb.
func (s *Setup) active(ctx context.Context, verb, unit string) bool {
	_, err := s.Run(ctx, "systemctl", verb, "--quiet", unit)
	return err == nil
}

func (s *Setup) planSnapshotter(ctx context.Context) (string, error) {
	if s.active(ctx, "is-enabled", socketUnit) && s.active(ctx, "is-active", socketUnit) && s.active(ctx, "is-active", serviceUnit) {
		return "", nil
	}
	return "systemctl enable --now " + socketUnit + " " + serviceUnit + "\n", nil
}

func (s *Setup) startSnapshotter(ctx context.Context) error {
	if err := s.systemctl("daemon-reload")(ctx); err != nil {
		return err
	}
	if err := s.systemctl("enable", "--now", socketUnit)(ctx); err != nil {
		return fmt.Errorf("%w (hint: the package brings %s)", err, socketUnit)
	}
	// It says that it is ready when the dataset is made.
	if err := s.systemctl("start", serviceUnit)(ctx); err != nil {
		return fmt.Errorf("%w (hint: journalctl -u %s)", err, serviceUnit)
	}
	return nil
}

func (s *Setup) snapshotterAnswers(ctx context.Context) (string, error) {
	results, err := doctor.Run(ctx, doctor.New(ctx, s.Host, config.Default()), "snapshotter-socket")
	if err != nil {
		return "", err
	}
	if r := results[0]; r.Status != doctor.OK {
		return "", fmt.Errorf("%s: %w (hint: journalctl -u %s)", r.Message, errdefs.ErrUnavailable, serviceUnit)
	}
	return "", nil
}

// stopSnapshotter also takes back the dataset, with what this run put there, where it was not
// there before.
func (s *Setup) stopSnapshotter(ctx context.Context) error {
	if err := s.stopUnits(ctx); err != nil {
		return err
	}
	if !s.datasetNew {
		return nil
	}
	if _, err := s.Run(ctx, "zfs", "list", "-Ho", "name", s.Dataset); err != nil {
		return nil //nolint:nilerr // it did not come that far
	}
	if _, err := s.Run(ctx, "zfs", "destroy", "-r", s.Dataset); err != nil {
		return err
	}
	return os.RemoveAll(s.At(snapshotterState + "/metadata.db"))
}

// stop disables units and stops those that run: systemctl refuses to stop one whose file
// it cannot read.
func (s *Setup) stop(units ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		errs := []error{s.systemctl(append([]string{"disable"}, units...)...)(ctx)}
		for _, unit := range units {
			if s.active(ctx, "is-active", unit) {
				errs = append(errs, s.systemctl("stop", unit)(ctx))
			}
		}
		return errors.Join(errs...)
	}
}

// stopUnits also takes away what the daemon left mounted for the kubelet to see.
func (s *Setup) stopUnits(ctx context.Context) error {
	if err := s.stop(socketUnit, serviceUnit)(ctx); err != nil {
		return err
	}
	dir := s.At(exportsRoot)
	if _, err := s.Run(ctx, "mountpoint", "-q", dir); err == nil {
		if _, err := s.Run(ctx, "umount", dir); err != nil {
			return err
		}
	}
	// The daemon makes it again; what somebody put there stays.
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	return nil
}

func (s *Setup) planTimer(ctx context.Context) (string, error) {
	if s.active(ctx, "is-enabled", timerUnit) && s.active(ctx, "is-active", timerUnit) {
		return "", nil
	}
	return "systemctl enable --now " + timerUnit + "\n", nil
}

// planRestart is for a daemon that has not read what is on disk.
func (s *Setup) planRestart(ctx context.Context) (string, error) {
	change := "systemctl restart " + s.layout.Unit + ", which leaves containers running\n"
	if len(s.edits) > 0 || !s.active(ctx, "is-active", s.layout.Unit) {
		return change, nil
	}
	out, err := s.Run(ctx, "systemctl", "show", "--timestamp=unix", "--property=ActiveEnterTimestamp", "--value", s.layout.Unit)
	if err != nil {
		return "", err
	}
	since, err := strconv.ParseInt(strings.TrimPrefix(strings.TrimSpace(out), "@"), 10, 64)
	if err != nil {
		return change, nil //nolint:nilerr // when it started is not known
	}
	edited, err := s.layout.Edited(s.Host)
	if err != nil {
		return "", err
	}
	if edited.Unix() >= since {
		return change, nil
	}
	return "", nil
}

// restartPatience is how long containerd may take to serve again.
const restartPatience = 90 * time.Second

func (s *Setup) restart(ctx context.Context) error {
	s.restarted = true
	if err := s.systemctl("restart", s.layout.Unit)(ctx); err != nil {
		return fmt.Errorf("%w (hint: journalctl -u %s)", err, s.layout.Unit)
	}
	ctx, cancel := context.WithTimeout(ctx, restartPatience)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		_, err := s.ctr(ctx, "version")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve: %w (hint: journalctl -u %s)", s.layout.Kind, err, s.layout.Unit)
		case <-time.After(pause):
		}
	}
}

// handlerThere is about k3s: only now has it made containerd's file.
func (s *Setup) handlerThere(ctx context.Context) (string, error) {
	tree, err := s.layout.Dump(ctx, s.Host, s.layout.Live)
	if err != nil {
		return "", err
	}
	if tree.RuntimeTable() == nil {
		return "", fmt.Errorf("%s has no handler %s after the restart: %w (hint: look at %s)", s.layout.Live, ctrd.Handler, errdefs.ErrInternal, s.layout.Config)
	}
	return "", nil
}

func (s *Setup) ctr(ctx context.Context, args ...string) (string, error) {
	h := *s.Host
	h.Timeout = time.Minute
	args = append(append(s.layout.Ctr[1:len(s.layout.Ctr):len(s.layout.Ctr)], "--address", s.layout.Socket), args...)
	return h.Run(ctx, s.layout.Ctr[0], args...)
}
