package zfs

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// KernelMount is how the kernel mounts a dataset of mountpoint legacy, or a snapshot.
func KernelMount(name string, readonly bool) Mount {
	m := Mount{Type: "zfs", Source: name, Options: []string{"rw"}}
	if readonly || IsSnapshot(name) {
		m.Options[0] = "ro"
	}
	return m
}

// Holder is a process in whose mount namespace something is mounted.
type Holder struct {
	PID     int
	Command string
	// Path is where, in that namespace.
	Path string
}

func (h Holder) String() string { return fmt.Sprintf("pid %d (%s) at %s", h.PID, h.Command, h.Path) }

// FindHolder looks through every mount namespace for a mount of a dataset or snapshot: why it is busy. proc is
// /proc. The first process found of the namespace stands for it.
func FindHolder(proc, name string) (Holder, bool) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return Holder{}, false
	}
	seen := map[string]bool{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := proc + "/" + e.Name()
		ns, err := os.Readlink(dir + "/ns/mnt")
		if err != nil || seen[ns] {
			continue
		}
		seen[ns] = true
		f, err := os.Open(dir + "/mountinfo")
		if err != nil {
			continue
		}
		mounts, err := mountinfo.GetMountsFromReader(f, func(m *mountinfo.Info) (skip, stop bool) {
			found := m.FSType == "zfs" && m.Source == name
			return !found, found
		})
		f.Close()
		if err != nil || len(mounts) == 0 {
			continue
		}
		comm, _ := os.ReadFile(dir + "/comm")
		return Holder{PID: pid, Command: strings.TrimSpace(string(comm)), Path: mounts[0].Mountpoint}, true
	}
	return Holder{}, false
}

// BusyIfInUse turns EEXIST of a destroy into ErrBusy: clones or children are in the way, and they may go.
func BusyIfInUse(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Kind == ErrExist {
		c := *e
		c.Kind, c.Detail = ErrBusy, "it has clones or children"
		return &c
	}
	return err
}
