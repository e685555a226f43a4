package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/internal/ctrd"
)

// noTasks also finds containerd.
func (s *Setup) noTasks(ctx context.Context) (string, error) {
	var err error
	if s.layout, err = ctrd.Find(ctx, s.Host); err != nil {
		return "", err
	}
	list, err := s.Containers()
	if err != nil {
		return "", err
	}
	running, first := 0, ""
	for _, c := range list {
		if c.Alive {
			if running++; first == "" {
				first = c.Namespace + "/" + c.ID
			}
		}
	}
	if running > 0 && !s.Force {
		return "", fmt.Errorf("%d containers run, %s the first: %w (hint: kubectl drain, nerdctl stop; or --force, which leaves them running)", running, first, errdefs.ErrFailedPrecondition)
	}
	if running > 0 {
		return fmt.Sprintf("%d containers go on", running), nil
	}
	return "", nil
}

func (s *Setup) planRemoval(context.Context) (string, error) {
	edits, err := s.layout.Unplan(s.Host)
	s.edits = edits
	return s.showEdits(), err
}

func (s *Setup) planRestartAfterRemoval(ctx context.Context) (string, error) {
	if len(s.edits) == 0 || s.NoRestart || !s.active(ctx, "is-active", s.layout.Unit) {
		return "", nil
	}
	return "systemctl restart " + s.layout.Unit + ", which leaves containers running\n", nil
}

// CurrentDataset is the snapshotter's root; empty where none is configured.
func (s *Setup) CurrentDataset() string {
	var have struct {
		Root string `toml:"root"`
	}
	text, err := s.Read(snapshotterFile)
	if err != nil || toml.Unmarshal([]byte(text), &have) != nil {
		return ""
	}
	return have.Root
}

// planStop is for a unit that systemd knows and that is not stopped and disabled yet.
func (s *Setup) planStop(unit string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		if !s.active(ctx, "is-enabled", unit) && !s.active(ctx, "is-active", unit) {
			return "", nil
		}
		return "systemctl disable --now " + unit + "\n", nil
	}
}

// saved is where a file of settings goes: an edit of the administrator's is not thrown away.
func saved(path string) string { return path + ".uninstalled" }

// ourSettings are the files that install wrote.
func (s *Setup) ourSettings() []string {
	var files []string
	for _, path := range []string{config.DefaultPath, snapshotterFile} {
		if text, err := s.Read(path); err == nil && strings.HasPrefix(text, header) {
			files = append(files, path)
		}
	}
	return files
}

func (s *Setup) planSettingsRemoval(context.Context) (string, error) {
	var b strings.Builder
	for _, path := range s.ourSettings() {
		fmt.Fprintf(&b, "mv %s %s\n", path, saved(path))
	}
	return b.String(), nil
}

func (s *Setup) removeSettings(context.Context) error {
	for _, path := range s.ourSettings() {
		if err := os.Rename(s.At(path), s.At(saved(path))); err != nil {
			return err
		}
		s.wrote = append(s.wrote, path)
	}
	return nil
}

func (s *Setup) restoreSettings(context.Context) error {
	var errs []error
	for _, path := range s.wrote {
		errs = append(errs, os.Rename(s.At(saved(path)), s.At(path)))
	}
	return errors.Join(errs...)
}
