package garbage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/shim/cgroup"
	"github.com/pvelxc/pvelxc/shim/container"
	"github.com/pvelxc/pvelxc/shim/layout"
	"github.com/pvelxc/pvelxc/shim/sandbox"
)

// sandboxAnnotation names the pod whose shim has a container.
const sandboxAnnotation = "io.kubernetes.cri.sandbox-id"

// Containers finds containers that containerd has forgotten: their bundle is gone, and no shim has them. containerd had
// them deleted and that failed, or its state was removed under them. Directories of containers that were never made
// are found, too.
func Containers() Source {
	return Source{Name: "containers", Find: func(context.Context) ([]Item, error) {
		list, err := node.Containers()
		if err != nil {
			return nil, err
		}
		shims, err := runningShims("/proc")
		if err != nil {
			return nil, err
		}
		var items []Item
		for _, c := range list {
			if item, found := forgotten(c, shims); found {
				items = append(items, item)
			}
		}
		empty, err1 := stateless(container.DefaultRoot, shims)
		sandboxes, err2 := abandoned(container.DefaultRoot, shims)
		return slices.Concat(items, empty, sandboxes), errors.Join(err1, err2)
	}}
}

func forgotten(c node.Container, shims []shim) (Item, bool) {
	if exists(c.Bundle) || young(c.Home) || owned(shims, c.Namespace, c.ID, c.Annotations[sandboxAnnotation]) {
		return Item{}, false
	}
	item := Item{Kind: "container", Name: c.Namespace + "/" + c.ID, Reason: "containerd has forgotten it: neither its bundle nor its shim is there"}
	if c.VMID != 0 {
		item.Name += " (" + c.VMID.String() + ")"
	}
	// A bundle lies in STATE/NAMESPACE/ID. A state that cannot be seen from here as a whole says nothing about one bundle.
	if state := filepath.Dir(filepath.Dir(c.Bundle)); c.Alive && !exists(state) {
		item.Kept = true
		item.Reason = fmt.Sprintf("it runs, and %s of its containerd is not there (hint: lxc-stop -P %s -n %s -k, if it is not wanted)", state, c.LXCPath, c.Name)
		return item, true
	}
	if c.Alive {
		item.Reason += "; its process goes on"
	}
	item.remove = func(ctx context.Context) error {
		now, err := container.Inspect("", c.Namespace, c.ID)
		switch {
		case errdefs.IsNotFound(err):
			return nil
		case err != nil:
			return err
		case now.Bundle != c.Bundle || now.Pid != c.Pid || now.StartTime != c.StartTime || exists(now.Bundle):
			return fmt.Errorf("it has changed meanwhile: %w", errdefs.ErrAborted)
		}
		_, err = node.Cleanup(ctx, container.CleanupConfig{ID: c.ID, Namespace: c.Namespace, Bundle: c.Bundle})
		return err
	}
	return item, true
}

// stateless finds directories of containers of which nothing was made when their shim was killed.
func stateless(root string, shims []shim) ([]Item, error) {
	homes, err := filepath.Glob(filepath.Join(root, "lxc", "*", "*"))
	if err != nil {
		return nil, err
	}
	var items []Item
	for _, home := range homes {
		namespace, id := filepath.Base(filepath.Dir(home)), filepath.Base(home)
		if !isDir(home) || exists(filepath.Join(home, "state.json")) || young(home) || owned(shims, namespace, id, "") {
			continue
		}
		items = append(items, Item{
			Kind: "directory", Name: home, Reason: "of a container that was never made: its shim was killed before",
			remove: func(ctx context.Context) error {
				if exists(filepath.Join(home, "state.json")) || young(home) {
					return fmt.Errorf("it has changed meanwhile: %w", errdefs.ErrAborted)
				}
				_, err := node.Cleanup(ctx, container.CleanupConfig{ID: id, Namespace: namespace, Bundle: home})
				return err
			},
		})
	}
	return items, nil
}

// abandoned finds what is left of sandboxes that a shim held and that has gone, without containerd having had them deleted.
func abandoned(root string, shims []shim) ([]Item, error) {
	dirs, err := filepath.Glob(layout.Sandbox(root, "*", "*"))
	if err != nil {
		return nil, err
	}
	var items []Item
	for _, dir := range dirs {
		namespace, id := filepath.Base(filepath.Dir(dir)), filepath.Base(dir)
		if !isDir(dir) || young(dir) || owned(shims, namespace, id, "") {
			continue
		}
		items = append(items, Item{
			Kind: "directory", Name: dir, Reason: "of a pod's sandbox whose shim has gone",
			remove: func(ctx context.Context) error {
				now, err := runningShims("/proc")
				if err != nil {
					return err
				}
				if young(dir) || owned(now, namespace, id, "") {
					return fmt.Errorf("it has changed meanwhile: %w", errdefs.ErrAborted)
				}
				return sandbox.Cleanup(ctx, root, namespace, id)
			},
		})
	}
	return items, nil
}

// Cgroups finds control groups of containers that are gone.
func Cgroups() Source {
	return Source{Name: "control groups", Find: func(context.Context) ([]Item, error) {
		known := func(namespace, id string) bool {
			return exists(filepath.Join(container.DefaultRoot, "lxc", namespace, id))
		}
		left, err := cgroup.Leftovers(cgroup.Mode(), grace, known)
		var items []Item
		for _, l := range left {
			item := Item{Kind: "cgroup", Name: strings.Join(l.Paths, " "), Reason: fmt.Sprintf("there is no container %s/%s", l.Namespace, l.ID)}
			if l.Processes > 0 {
				item.Kept = true
				item.Reason += fmt.Sprintf(", and %d processes are in it (hint: systemd-cgls /%s)", l.Processes, l.Paths[0])
			}
			item.remove = func(ctx context.Context) error {
				if known(l.Namespace, l.ID) {
					return fmt.Errorf("it has a container now: %w", errdefs.ErrAborted)
				}
				ctx, cancel := context.WithTimeout(ctx, removePatience)
				defer cancel()
				return l.Remove(ctx)
			}
			items = append(items, item)
		}
		return items, err
	}}
}

// removePatience is how long the removal of a group may wait for processes that are just dying.
const removePatience = 10 * time.Second

// shim is a process that serves containers of a namespace: those of the pod, or the one, that it was started for.
type shim struct{ namespace, id string }

func owned(shims []shim, namespace, id, sandbox string) bool {
	return slices.Contains(shims, shim{namespace, id}) || sandbox != "" && slices.Contains(shims, shim{namespace, sandbox})
}

// shimName is the program's.
const shimName = "pvelxc-shim"

// runningShims reads the command lines of processes. Former versions had another name for the program.
func runningShims(proc string) ([]shim, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []shim
	for _, e := range entries {
		if e.Name()[0] < '1' || e.Name()[0] > '9' {
			continue
		}
		line, err := os.ReadFile(filepath.Join(proc, e.Name(), "cmdline"))
		if err != nil {
			continue // gone
		}
		args := strings.Split(string(line), "\x00")
		if name := filepath.Base(args[0]); name != shimName && name != "containerd-shim-pvelxc-v2" {
			continue
		}
		var s shim
		for i, arg := range args[:len(args)-1] {
			switch arg {
			case "-namespace":
				s.namespace = args[i+1]
			case "-id":
				s.id = args[i+1]
			}
		}
		found = append(found, s)
	}
	return found, nil
}

// exists is also true of what cannot be looked at.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// young is also true of what cannot be looked at, and of a time in the future that is near.
func young(path string) bool {
	info, err := os.Lstat(path)
	if err != nil {
		return true
	}
	age := time.Since(info.ModTime())
	return age < grace && age > -grace
}
