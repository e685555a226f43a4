// Package inventory is what an administrator sees of this node's containers. It reads
// the state files, the kernel, and, for images only, containerd; no shim is asked, so
// that a shim that hangs does not hide its containers.
package inventory

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/pve"
)

// Row is one container. Its JSON keys stay.
type Row struct {
	// VMID is 0 for a container that is not registered; Unregistered says why it could
	// not be, and is empty where it was not meant to be.
	VMID         pve.VMID `json:"vmid,omitempty"`
	Unregistered string   `json:"unregistered,omitempty"`
	Namespace    string   `json:"namespace"`
	ID           string   `json:"id"`
	// Pod is "namespace/name"; Name is the container's in its pod, or nerdctl's.
	Pod   string `json:"pod,omitempty"`
	Name  string `json:"name,omitempty"`
	Image string `json:"image,omitempty"`
	// Sandbox says that it is a pod's pause container.
	Sandbox bool   `json:"sandbox,omitempty"`
	State   string `json:"state"`
	Pid     int    `json:"pid,omitempty"`
	// Dataset is the root filesystem's on ZFS, Filesystem its type otherwise.
	Dataset    string `json:"dataset,omitempty"`
	Filesystem string `json:"filesystem,omitempty"`
	Rootfs     string `json:"rootfs,omitempty"`
	// Started is when its first process was.
	Started time.Time `json:"started,omitzero"`
	// CPUSeconds and MemoryBytes are what it used: in all, and now.
	CPUSeconds  float64 `json:"cpuSeconds"`
	MemoryBytes uint64  `json:"memoryBytes"`
	// Bundle and LXCPath are where it is on this host.
	Bundle  string `json:"bundle"`
	LXCPath string `json:"lxcpath"`
	LXCName string `json:"lxcName"`
}

// Options change what Rows does.
type Options struct {
	// Images tells the image of a container by namespace and id; it is asked once for each
	// namespace that has a container whose annotations do not name one. nil for nobody.
	Images func(ctx context.Context, namespace string) (map[string]string, error)
}

// Rows lists the containers, by VMID, then by namespace and id. An error of Options.Images
// comes beside complete rows.
func Rows(ctx context.Context, opts Options) ([]Row, error) {
	list, err := node.Containers()
	if err != nil {
		return nil, err
	}
	rows, err := rowsOf(ctx, list, opts)
	slices.SortStableFunc(rows, func(a, b Row) int {
		if a.VMID != b.VMID && a.VMID != 0 && b.VMID != 0 {
			return int(a.VMID) - int(b.VMID)
		}
		if (a.VMID == 0) != (b.VMID == 0) {
			return map[bool]int{true: 1, false: -1}[a.VMID == 0]
		}
		return strings.Compare(a.Namespace+"/"+a.ID, b.Namespace+"/"+b.ID)
	})
	return rows, err
}

// One is the row of a container.
func One(ctx context.Context, c node.Container, opts Options) (Row, error) {
	rows, err := rowsOf(ctx, []node.Container{c}, opts)
	if len(rows) == 0 {
		return Row{}, err
	}
	return rows[0], err
}

func rowsOf(ctx context.Context, list []node.Container, opts Options) ([]Row, error) {
	mounts, err := roots(list)
	if err != nil {
		return nil, err
	}
	booted, err := bootTime()
	if err != nil {
		return nil, err
	}
	rows := make([]Row, len(list))
	for i, c := range list {
		rows[i] = row(c, mounts, booted)
	}
	return rows, nameImages(ctx, rows, opts.Images)
}

func row(c node.Container, mounts map[string]*mountinfo.Info, booted time.Time) Row {
	r := Row{
		VMID: c.VMID, Unregistered: c.Unregistered, Namespace: c.Namespace, ID: c.ID,
		Rootfs: rootOf(c), Bundle: c.Bundle, LXCPath: c.LXCPath, LXCName: c.Name,
	}
	who := node.Describe(c.Annotations)
	r.Pod, r.Name, r.Image, r.Sandbox = who.Pod, who.Name, who.Image, who.Sandbox
	if m := mounts[r.Rootfs]; m != nil {
		if r.Filesystem = m.FSType; m.FSType == "zfs" {
			r.Dataset = m.Source
		}
	}
	if c.Alive {
		const ticks = 100 // USER_HZ, on every architecture there is
		r.Pid, r.Started = c.Pid, booted.Add(time.Duration(c.StartTime)*time.Second/ticks).UTC()
	}
	// A container that ends meanwhile has no state and no usage, and is no error.
	if state, err := c.Status(); err == nil {
		r.State = state.String()
	} else {
		r.State = "unknown"
	}
	if used, err := c.Usage(); err == nil {
		r.CPUSeconds, r.MemoryBytes = used.CPU.Seconds(), used.Memory
	}
	return r
}

// rootOf is where the root filesystem is.
func rootOf(c node.Container) string {
	if c.Rootfs == "" && c.Guest != nil {
		return c.Guest.Rootfs
	}
	return c.Rootfs
}

// roots are the mounts of the containers' root filesystems.
func roots(list []node.Container) (map[string]*mountinfo.Info, error) {
	wanted := make(map[string]*mountinfo.Info, len(list))
	for _, c := range list {
		wanted[rootOf(c)] = nil
	}
	_, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		if _, ok := wanted[m.Mountpoint]; ok {
			wanted[m.Mountpoint] = m
		}
		return true, false
	})
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return wanted, nil
}

// bootTime is when the clock that processes' start times are told by was zero.
func bootTime() (time.Time, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Time{}, fmt.Errorf("read the time since boot: %w", err)
	}
	return time.Now().Add(-time.Duration(ts.Nano())), nil
}

func nameImages(ctx context.Context, rows []Row, ask func(context.Context, string) (map[string]string, error)) error {
	if ask == nil {
		return nil
	}
	asked := map[string]map[string]string{}
	for i := range rows {
		r := &rows[i]
		if r.Image != "" {
			continue
		}
		images, ok := asked[r.Namespace]
		if !ok {
			var err error
			if images, err = ask(ctx, r.Namespace); err != nil {
				return err // who does not answer once is not asked again
			}
			asked[r.Namespace] = images
		}
		r.Image = images[r.ID]
	}
	return nil
}

// Find is the container that a user means: a VMID, an id, the beginning of one that no other
// container has, or "namespace/id".
func Find(name string) (node.Container, error) {
	list, err := node.Containers()
	if err != nil {
		return node.Container{}, err
	}
	var exact, begins []node.Container
	for _, c := range list {
		switch {
		case c.VMID != 0 && c.VMID.String() == name, c.Namespace+"/"+c.ID == name:
			return c, nil
		case c.ID == name:
			exact = append(exact, c)
		case len(name) >= 3 && strings.HasPrefix(c.ID, name):
			begins = append(begins, c)
		}
	}
	found := exact
	if len(found) == 0 {
		found = begins
	}
	switch len(found) {
	case 0:
		return node.Container{}, fmt.Errorf("container %.80q: %w (hint: pvelxc list)", name, errdefs.ErrNotFound)
	case 1:
		return found[0], nil
	}
	names := make([]string, len(found))
	for i, c := range found {
		names[i] = c.Namespace + "/" + c.ID
	}
	return node.Container{}, fmt.Errorf("container %.80q: several have that name: %w (hint: one of %s)", name, errdefs.ErrInvalidArgument, strings.Join(names[:min(len(names), 5)], ", "))
}
