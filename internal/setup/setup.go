package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aymanbagabas/go-udiff"
	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/internal/ctrd"
	"github.com/pvelxc/pvelxc/internal/doctor"
	"github.com/pvelxc/pvelxc/internal/host"
	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/pve"
)

// Options are the administrator's.
type Options struct {
	// Dataset is the snapshotter's root, such as "rpool/pvelxc"; empty for a node whose
	// containers are on another snapshotter.
	Dataset string
	// Range is the VMIDs to give; the zero value for the default.
	Range pve.Range
	// NoRestart leaves containerd running with its old configuration, and NoHello runs no container.
	NoRestart, NoHello bool
	// Force takes pvelxc out while containers run.
	Force bool
}

// Setup is one run on one machine.
type Setup struct {
	*host.Host
	Options
	// Containers are this node's.
	Containers func() ([]node.Container, error)
	// Hello makes the archive of the image that the last step runs.
	Hello func() ([]byte, error)

	layout ctrd.Layout
	edits  []ctrd.Edit
	// wrote are the files that this run made, datasetNew that the dataset was not there.
	wrote      []string
	datasetNew bool
	restarted  bool
	vmid       pve.VMID
}

// Files of ours.
const (
	snapshotterFile   = doctor.SnapshotterFile
	snapshotterSocket = "/run/pvelxc-snapshotter/snapshotter.sock"
	snapshotterState  = "/var/lib/pvelxc-snapshotter"
	exportsRoot       = snapshotterState + "/exports"
	header            = "# Written by pvelxc install. It is yours to edit.\n"
)

// Units of ours.
const (
	socketUnit  = "pvelxc-snapshotter.socket"
	serviceUnit = "pvelxc-snapshotter.service"
	timerUnit   = "pvelxc-gc.timer"
)

// Next is what to type after an installation.
func (s *Setup) Next() string {
	if s.NoRestart {
		return "systemctl restart " + s.layout.Unit
	}
	if s.Exists("/var/lib/kubelet") || s.layout.Kind == "k3s" {
		return "kubectl apply -f /usr/share/doc/pvelxc/examples/k8s/runtimeclass.yaml"
	}
	run := "nerdctl run --rm"
	if _, err := s.Look("nerdctl"); err != nil {
		run = "ctr run --rm"
	}
	if s.Dataset != "" {
		run += " --snapshotter " + ctrd.Handler
	}
	if strings.HasPrefix(run, "ctr") {
		return "ctr image pull" + map[bool]string{true: " --snapshotter " + ctrd.Handler}[s.Dataset != ""] + " docker.io/library/alpine:latest && " +
			run + " --runtime " + ctrd.Runtime + " docker.io/library/alpine:latest hello uname -a"
	}
	return run + " --runtime " + ctrd.Runtime + " alpine uname -a"
}

// Install are the steps of pvelxc install.
func (s *Setup) Install() []Step {
	steps := []Step{{Name: "preflight", Check: s.preflight}}
	if s.Dataset != "" {
		steps = append(steps, Step{Name: "dataset", Plan: s.planDataset, Do: s.doDataset, Undo: s.removeWritten(snapshotterFile)})
	}
	steps = append(steps,
		Step{Name: "settings", Plan: s.planSettings, Do: s.doSettings, Undo: s.removeWritten(config.DefaultPath)},
		Step{Name: "containerd", Plan: s.planContainerd, Do: s.applyEdits, Undo: s.undoEdits},
		Step{Name: "config-dump", Verify: s.dumpParses})
	if s.Dataset != "" {
		steps = append(steps, Step{Name: "snapshotter", Plan: s.planSnapshotter, Do: s.startSnapshotter, Verify: s.snapshotterAnswers, Undo: s.stopSnapshotter})
	}
	steps = append(steps, Step{Name: "timer", Plan: s.planTimer, Do: s.systemctl("enable", "--now", timerUnit), Undo: s.stop(timerUnit)})
	if !s.NoRestart {
		steps = append(steps, Step{Name: "restart", Plan: s.planRestart, Do: s.restart, Verify: s.handlerThere})
		if !s.NoHello {
			steps = append(steps, Step{Name: "hello", Plan: s.planHello, Do: s.hello, Verify: s.helloSaid, Undo: s.removeHello})
		}
	}
	return steps
}

// Uninstall are the steps of pvelxc uninstall.
func (s *Setup) Uninstall() []Step {
	return []Step{
		{Name: "tasks", Check: s.noTasks},
		{Name: "containerd", Plan: s.planRemoval, Do: s.applyEdits, Undo: s.undoEdits},
		{Name: "config-dump", Verify: s.stillParses},
		{Name: "restart", Plan: s.planRestartAfterRemoval, Do: s.restart},
		{Name: "timer", Plan: s.planStop(timerUnit), Do: s.stop(timerUnit), Undo: s.systemctl("enable", "--now", timerUnit)},
		{Name: "snapshotter", Plan: s.planStop(socketUnit), Do: s.stopUnits, Undo: s.startSnapshotter},
		{Name: "settings", Plan: s.planSettingsRemoval, Do: s.removeSettings, Undo: s.restoreSettings},
	}
}

// checks are those whose failure makes an installation pointless. What install brings about
// itself is not among them.
var checks = []string{"lxc-version", "kernel", "cgroup2", "quorum", "vmid-range", "containerd-version", "containerd-config"}

func (s *Setup) preflight(ctx context.Context) (string, error) {
	conf := config.Default()
	if s.Exists(config.DefaultPath) {
		text, err := s.Read(config.DefaultPath)
		if err == nil {
			conf, err = conf.Override(config.DefaultPath, []byte(text))
		}
		if err != nil {
			return "", fmt.Errorf("%w (hint: pvelxc config check)", err)
		}
	}
	results, err := doctor.Run(ctx, doctor.New(ctx, s.Host, conf), checks...)
	if err != nil {
		return "", err
	}
	var said []string
	for _, r := range results {
		switch r.Status {
		case doctor.Failure:
			return "", fmt.Errorf("%s: %s: %w (hint: %s)", r.Name, r.Message, errdefs.ErrFailedPrecondition, r.Fix)
		case doctor.Warning:
			said = append(said, r.Name+": "+r.Message)
		}
	}
	if s.layout, err = ctrd.Find(ctx, s.Host); err != nil {
		return "", err
	}
	return strings.Join(append([]string{s.layout.Kind + " " + s.layout.Version}, said...), "\n"), nil
}

func (s *Setup) planDataset(ctx context.Context) (string, error) {
	pool, _, below := strings.Cut(s.Dataset, "/")
	if !below {
		return "", fmt.Errorf("dataset %s is a pool: %w (hint: --dataset %s/pvelxc)", s.Dataset, errdefs.ErrInvalidArgument, pool)
	}
	health, err := s.Run(ctx, "zpool", "list", "-Hpo", "health", pool)
	if err != nil {
		return "", fmt.Errorf("pool %s: %w (hint: zpool list)", pool, err)
	}
	if h := strings.TrimSpace(health); h != "ONLINE" && h != "DEGRADED" {
		return "", fmt.Errorf("pool %s is %s: %w (hint: zpool status %s)", pool, h, errdefs.ErrFailedPrecondition, pool)
	}
	_, err = s.Run(ctx, "zfs", "list", "-Ho", "name", s.Dataset)
	s.datasetNew = err != nil
	if !s.Exists(snapshotterFile) {
		return s.diff(snapshotterFile, s.snapshotterText())
	}
	text, err := s.Read(snapshotterFile)
	if err != nil {
		return "", err
	}
	var have struct {
		Root string `toml:"root"`
	}
	if err := toml.Unmarshal([]byte(text), &have); err != nil {
		return "", fmt.Errorf("%s: %w: %w (hint: pvelxc-snapshotter -check)", snapshotterFile, err, errdefs.ErrInvalidArgument)
	}
	if have.Root != s.Dataset {
		return "", fmt.Errorf("%s has root = %q: %w (hint: --dataset %s, or edit the file)", snapshotterFile, have.Root, errdefs.ErrAlreadyExists, have.Root)
	}
	return "", nil
}

func (s *Setup) snapshotterText() string {
	return header + "version = 1\n\n# The dataset for images and containers; the snapshotter makes it.\nroot = \"" + s.Dataset + "\"\n"
}

func (s *Setup) doDataset(ctx context.Context) error {
	if err := s.write(snapshotterFile, s.snapshotterText()); err != nil {
		return err
	}
	_, err := s.Run(ctx, "pvelxc-snapshotter", "-check", "-config", s.At(snapshotterFile))
	return err
}

// settingsText is the node's file: the range where it was asked for, and the kubelet's cgroup
// driver.
func (s *Setup) settingsText() (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%sversion = %d\n", header, config.Version)
	if driver := s.kubeletDriver(); driver == "systemd" {
		b.WriteString("\n[runtime]\n# As the kubelet has it.\nsystemd_cgroup = true\n")
	}
	r := s.Range
	if r == (pve.Range{}) {
		r = pve.DefaultRange
	}
	fmt.Fprintf(&b, "\n[pve]\n# No guest of anybody else's may have a VMID in it.\nvmid_range = %q\n", r)
	_, err := config.Default().Override(config.DefaultPath, []byte(b.String()))
	return b.String(), err
}

func (s *Setup) kubeletDriver() string {
	text, err := s.Read("/var/lib/kubelet/config.yaml")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(text) {
		if key, value, found := strings.Cut(line, ":"); found && key == "cgroupDriver" {
			return strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return ""
}

func (s *Setup) planSettings(context.Context) (string, error) {
	if !s.Exists(config.DefaultPath) {
		text, err := s.settingsText()
		if err != nil {
			return "", err
		}
		return s.diff(config.DefaultPath, text)
	}
	text, err := s.Read(config.DefaultPath)
	if err != nil {
		return "", err
	}
	conf, err := config.Default().Override(config.DefaultPath, []byte(text))
	if err != nil {
		return "", err
	}
	have := conf.PVE.VMIDRange
	if have == "" {
		have = pve.DefaultRange.String()
	}
	if s.Range != (pve.Range{}) && s.Range.String() != have {
		return "", fmt.Errorf("%s has vmid_range = %q, not %s: %w (hint: edit the file)", config.DefaultPath, have, s.Range, errdefs.ErrAlreadyExists)
	}
	return "", nil
}

func (s *Setup) doSettings(context.Context) error {
	text, err := s.settingsText()
	if err != nil {
		return err
	}
	return s.write(config.DefaultPath, text)
}

// write makes a file of ours, and remembers it for the rollback.
func (s *Setup) write(path, text string) error {
	s.wrote = append(s.wrote, path)
	if err := s.Write(path, []byte(text), 0o640); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// removeWritten undoes write.
func (s *Setup) removeWritten(path string) func(context.Context) error {
	return func(context.Context) error {
		for _, made := range s.wrote {
			if made == path {
				if err := os.Remove(s.At(path)); err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
				_ = os.Remove(s.At(filepath.Dir(path))) // only when it is empty
			}
		}
		return nil
	}
}

func (s *Setup) diff(path, after string) (string, error) {
	before, err := s.Read(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	from := path
	if err != nil {
		from = "/dev/null"
	}
	return udiff.Unified(from, path, before, after), nil
}

func (s *Setup) systemctl(args ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		h := *s.Host
		h.Timeout = 3 * time.Minute
		_, err := h.Run(ctx, "systemctl", args...)
		return err
	}
}
