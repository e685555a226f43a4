// Package rdt puts containers into classes of service of the resctrl filesystem,
// which share out L3 cache and memory bandwidth (config-linux.md#intelrdt;
// Documentation/filesystems/resctrl.rst).
package rdt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Group is where a container is in resctrl. It can be kept as JSON, for whoever
// must remove it after a crash.
type Group struct {
	// Class is the directory of the class of service, Monitoring that of the
	// container's own monitoring group below it, empty for none.
	Class      string `json:"class"`
	Monitoring string `json:"monitoring,omitempty"`
	// Owned says that the class was made for this container alone.
	Owned bool `json:"owned,omitempty"`
}

// Root finds the mounted resctrl filesystem. Without one the error unwraps to
// errdefs.ErrFailedPrecondition.
func Root() (string, error) {
	const usual = "/sys/fs/resctrl"
	var st unix.Statfs_t
	if err := unix.Statfs(usual, &st); err == nil && st.Type == unix.RDTGROUP_SUPER_MAGIC {
		return usual, nil
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("resctrl"))
	if err != nil {
		return "", fmt.Errorf("look for resctrl: %w", err)
	}
	if len(mounts) == 0 {
		return "", fmt.Errorf("linux.intelRdt needs the resctrl filesystem (hint: mount -t resctrl resctrl %s; the processor must have RDT): %w", usual, errdefs.ErrFailedPrecondition)
	}
	return mounts[0].Mountpoint, nil
}

// Apply puts the container id, whose first process pid is parked, into the class
// that r describes, below root. After an error nothing of it is left.
func Apply(root, id string, r *specs.LinuxIntelRdt, pid int) (_ Group, err error) {
	name := r.ClosID
	if name == "" {
		name = id
	}
	if name != "/" && !isName(name) || !isName(id) {
		return Group{}, fmt.Errorf("linux.intelRdt.closID %q is not the name of a group: %w", name, errdefs.ErrInvalidArgument)
	}
	g := Group{Class: filepath.Join(root, name)}
	lines := schemata(r)
	made := false
	if r.ClosID != "" && len(lines) == 0 || name == "/" {
		if _, err := os.Stat(g.Class); err != nil {
			return Group{}, fmt.Errorf("linux.intelRdt.closID: %w (hint: without schemata the class must exist): %w", err, errdefs.ErrFailedPrecondition)
		}
	} else if err := os.Mkdir(g.Class, 0o755); err == nil {
		made = true
	} else if !errors.Is(err, os.ErrExist) {
		return Group{}, status(root, fmt.Errorf("make resctrl class: %w", err))
	}
	g.Owned = made && r.ClosID == ""
	defer func() {
		if err != nil {
			err = errors.Join(err, Group{Class: g.Class, Monitoring: g.Monitoring, Owned: made}.Remove())
		}
	}()
	if r.ClosID != "" && !made {
		// The class is somebody's: it must be as expected. Only the lines that differ in
		// meaning count, since the kernel writes numbers in its own way.
		if err := compare(g.Class, r); err != nil {
			return Group{}, err
		}
	}
	if len(lines) > 0 {
		text := strings.Join(lines, "\n") + "\n"
		if err := os.WriteFile(filepath.Join(g.Class, "schemata"), []byte(text), 0o600); err != nil {
			return Group{}, status(root, fmt.Errorf("write resctrl schemata %q: %w", text, err))
		}
	}
	if r.EnableMonitoring {
		g.Monitoring = filepath.Join(g.Class, "mon_groups", id)
		if err := os.Mkdir(g.Monitoring, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			g.Monitoring = ""
			return Group{}, status(root, fmt.Errorf("make resctrl monitoring group: %w", err))
		}
	}
	if err := g.Join(pid); err != nil {
		return Group{}, status(root, err)
	}
	return g, nil
}

func isName(s string) bool { return s != "." && filepath.IsLocal(s) && filepath.Base(s) == s }

// Join puts a process into the class and the monitoring group; its children
// follow. An exec does this before it runs the user's program.
func (g Group) Join(pid int) error {
	dirs := []string{g.Class}
	if g.Monitoring != "" {
		dirs = append(dirs, g.Monitoring)
	}
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "tasks"), []byte(strconv.Itoa(pid)), 0o600); err != nil {
			return fmt.Errorf("put process %d into a resctrl group: %w", pid, err)
		}
	}
	return nil
}

// Remove removes what was made for the container alone; what is gone is no error.
func (g Group) Remove() error {
	var errs []error
	// Removing a class removes the monitoring groups in it.
	dir := g.Monitoring
	if g.Owned {
		dir = g.Class
	}
	if dir == "" {
		return nil
	}
	// rmdir of a resctrl group takes its files along.
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, &os.PathError{Op: "remove resctrl group", Path: dir, Err: err})
	}
	return errors.Join(errs...)
}

// schemata lists the lines to write, in the specification's order.
func schemata(r *specs.LinuxIntelRdt) []string {
	var lines []string
	for _, line := range append([]string{r.L3CacheSchema, r.MemBwSchema}, r.Schemata...) {
		if line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// status adds what the kernel says about the last failure (info/last_cmd_status).
func status(root string, err error) error {
	text, readErr := os.ReadFile(filepath.Join(root, "info", "last_cmd_status"))
	if readErr != nil {
		return err
	}
	return fmt.Errorf("%w (resctrl: %s)", err, strings.TrimSpace(string(text)))
}
