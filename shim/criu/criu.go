// Package criu dumps the processes of a container with CRIU (criu(8)), in the form that runc gives its checkpoints: `runc restore`
// takes them.
package criu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/pvelxc/pvelxc/shim/reaper"
)

const (
	program = "criu"
	logName = "dump.log"
	// descriptors is runc's file for what the standard streams were: at a restore new ones take their places.
	descriptors = "descriptors.json"
)

// cgroupModes are the values of criu's --manage-cgroups that make sense for a dump.
var cgroupModes = []string{"ignore", "soft", "full", "strict"}

// Mount is a mount of the container's that came from outside: it is not dumped, and whoever restores puts another in its place.
type Mount struct {
	// Point is where it is in the container, as /proc/PID/mountinfo has it.
	Point string
	// Name is what the images call it.
	Name string
}

// Namespace is one that the container has joined, and that exists without it.
type Namespace struct {
	// Kind is "net" or "pid".
	Kind string
	// Inode is its number (namespaces(7)).
	Inode uint64
}

// Dump is what to do with which container.
type Dump struct {
	// Pid is the container's init, Root its root on the host.
	Pid  int
	Root string
	// Images and Work are directories that exist, for the images and for the log.
	Images, Work string
	// Freezer is the directory of the container's control group, which may be frozen already.
	Freezer    string
	Mounts     []Mount
	Namespaces []Namespace
	// LeaveRunning lets the processes go on afterwards; else they are killed.
	LeaveRunning bool
	// CgroupsMode is criu's --manage-cgroups; "soft" when empty.
	CgroupsMode string
	// EmptyNamespaces are restored without what was in them ("network").
	EmptyNamespaces []string
	// TCP, UnixSockets, Terminal and FileLocks allow what criu refuses by default: connections, sockets whose other end is outside,
	// a terminal whose master is, locks.
	TCP, UnixSockets, Terminal, FileLocks bool
}

// Run dumps. Where criu is missing or cannot work on this host, the error unwraps to errdefs.ErrNotImplemented.
func (d Dump) Run(ctx context.Context) error {
	args, err := d.args()
	if err != nil {
		return err
	}
	path, err := find(ctx)
	if err != nil {
		return err
	}
	if err := d.writeDescriptors(); err != nil {
		return err
	}
	inner, err := innerPid(d.Pid) // it may be gone afterwards
	if err != nil {
		return err
	}
	exit, output, err := run(ctx, path, args...)
	if err != nil {
		return fmt.Errorf("criu dump: %w", err)
	}
	if exit.Code() == 0 {
		return forgetParent(d.Images, inner)
	}
	file := filepath.Join(d.Work, logName)
	if text, err := os.ReadFile(file); err == nil {
		output = text
	}
	log.G(ctx).WithField("log", file).Warn("criu dump failed")
	return fmt.Errorf("criu dump: exit status %d: %s (log: %s)", exit.Code(), reasons(output), file)
}

// find looks for a criu that works here.
func find(ctx context.Context) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("%w: %w (hint: apt-get install criu)", err, errdefs.ErrNotImplemented)
	}
	exit, output, err := run(ctx, path, "check")
	if err != nil {
		return "", fmt.Errorf("criu check: %w", err)
	}
	if exit.Code() != 0 {
		return "", fmt.Errorf("criu check: this kernel and %s do not go together: %s: %w", path, reasons(output), errdefs.ErrNotImplemented)
	}
	return path, nil
}

func run(ctx context.Context, path string, args ...string) (reaper.Exit, []byte, error) {
	var output bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.Dir = "/"
	exit, err := reaper.Run(ctx, cmd)
	return exit, output.Bytes(), err
}

// reasons are the first errors of criu's output; those that follow are their consequences.
func reasons(output []byte) string {
	const most = 3
	var found []string
	for line := range strings.Lines(string(output)) {
		// "(00.123456) Error (criu/file.c:123): what went wrong"
		if _, after, ok := strings.Cut(line, "Error ("); ok && len(found) < most {
			if _, text, ok := strings.Cut(after, "): "); ok {
				found = append(found, strings.TrimSpace(text))
			}
		}
	}
	if len(found) == 0 { // it has not come to write such lines
		first, _, _ := strings.Cut(strings.TrimSpace(string(output)), "\n")
		return first
	}
	return strings.Join(found, "; ")
}

func (d Dump) args() ([]string, error) {
	mode := d.CgroupsMode
	if mode == "" {
		mode = "soft"
	}
	if !slices.Contains(cgroupModes, mode) {
		return nil, fmt.Errorf("cgroups mode %q is none of %s: %w", mode, strings.Join(cgroupModes, ", "), errdefs.ErrInvalidArgument)
	}
	args := []string{
		"dump", "-v4", "--log-file", logName, "--tree", strconv.Itoa(d.Pid), "--root", d.Root,
		"--images-dir", d.Images, "--work-dir", d.Work, "--manage-cgroups=" + mode,
	}
	if d.Freezer != "" {
		args = append(args, "--freeze-cgroup", d.Freezer)
	}
	for _, m := range d.Mounts {
		if strings.Contains(m.Point, ":") {
			return nil, fmt.Errorf("the mount on %q: criu cannot be told of a path with a colon: %w", m.Point, errdefs.ErrNotImplemented)
		}
		args = append(args, "--ext-mount-map", m.Point+":"+m.Name)
	}
	for _, n := range d.Namespaces {
		args = append(args, "--external", fmt.Sprintf("%s[%d]:%s", n.Kind, n.Inode, externalNames[n.Kind]))
	}
	for _, n := range d.EmptyNamespaces {
		if n != "network" {
			return nil, fmt.Errorf("criu can leave a network namespace empty, not %q: %w", n, errdefs.ErrNotImplemented)
		}
		args = append(args, "--empty-ns", "net")
	}
	for _, flag := range []struct {
		name  string
		given bool
	}{
		{"--leave-running", d.LeaveRunning},
		{"--tcp-established", d.TCP},
		{"--ext-unix-sk", d.UnixSockets},
		{"--shell-job", d.Terminal},
		{"--file-locks", d.FileLocks},
	} {
		if flag.given {
			args = append(args, flag.name)
		}
	}
	return args, nil
}

// externalNames are what runc calls joined namespaces in its images.
var externalNames = map[string]string{"net": "extRootNetNS", "pid": "extRootPidNS"}

func (d Dump) writeDescriptors() error {
	var links []string
	for fd := range 3 {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", d.Pid, fd))
		if err != nil && !errors.Is(err, os.ErrNotExist) { // a program may have closed it
			return fmt.Errorf("look at the standard streams: %w", err)
		}
		links = append(links, link)
	}
	data, err := json.Marshal(links)
	if err != nil {
		return fmt.Errorf("encode the standard streams: %w", err)
	}
	if err := os.WriteFile(filepath.Join(d.Images, descriptors), data, 0o600); err != nil {
		return fmt.Errorf("write the standard streams: %w", err)
	}
	return nil
}
