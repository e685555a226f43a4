package harness

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Programs lists the processes in the sandbox whose executable has this name, or starts with it
// when it ends in '*'. One that was executed from a descriptor is known by the name it gives itself.
func Programs(name string) []int {
	var pids []int
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		exe, err := os.Readlink(link)
		if err != nil {
			continue
		}
		base := strings.TrimSuffix(filepath.Base(exe), " (deleted)")
		prefix, wild := strings.CutSuffix(name, "*")
		comm, _ := os.ReadFile(filepath.Join(filepath.Dir(link), "comm"))
		if base == name || strings.TrimSpace(string(comm)) == name || wild && strings.HasPrefix(base, prefix) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// LastArgument is the last word of a process's command line.
func LastArgument(pid int) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	words := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
	return words[len(words)-1]
}

// Status are the fields of /proc/<pid>/status.
func Status(t testing.TB, pid int) map[string]string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	return ParseStatus(string(data))
}

// ParseStatus reads the text of a /proc/<pid>/status file.
func ParseStatus(text string) map[string]string {
	fields := make(map[string]string)
	for scanner := bufio.NewScanner(strings.NewReader(text)); scanner.Scan(); {
		if key, value, ok := strings.Cut(scanner.Text(), ":"); ok {
			fields[key] = strings.TrimSpace(value)
		}
	}
	return fields
}

// Parent is the parent of a process: of a container's init, that is LXC's monitor, or runc's shim.
func Parent(t testing.TB, pid int) int {
	t.Helper()
	parent, err := strconv.Atoi(Status(t, pid)["PPid"])
	if err != nil {
		t.Fatal(err)
	}
	return parent
}

// ShimAddress is the address that the container's shim gave to containerd.
func (c *Container) ShimAddress(t testing.TB) string {
	t.Helper()
	bundle := c.env.Daemon.Bundle(c.env.Namespace, c.ID())
	var bootstrap struct{ Address string }
	if data, err := os.ReadFile(filepath.Join(bundle, "bootstrap.json")); err == nil {
		if err := json.Unmarshal(data, &bootstrap); err != nil {
			t.Fatal(err)
		}
		return bootstrap.Address
	}
	data, err := os.ReadFile(filepath.Join(bundle, "address"))
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(data))
}

// Shim is the process that serves the container: the shim program that holds the listening socket.
func (c *Container) Shim(t testing.TB) int {
	t.Helper()
	address := strings.TrimPrefix(c.ShimAddress(t), "unix://")
	inodes := make(map[string]bool)
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) == 8 && fields[7] == address {
			inodes["socket:["+fields[6]+"]"] = true
		}
	}
	for _, pid := range append(Programs("containerd-shim-*"), Programs("pvelxc-shim")...) {
		for _, target := range OpenFiles(pid) {
			if inodes[target] {
				return pid
			}
		}
	}
	t.Fatalf("no shim listens on %s", address)
	return 0
}

// OpenFiles is what the descriptors of a process refer to, by descriptor.
func OpenFiles(pid int) map[string]string {
	files := make(map[string]string)
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil {
			files[filepath.Base(link)] = target
		}
	}
	return files
}

// Alive reports whether the process exists and is no zombie.
func Alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, found := strings.Cut(string(data), ") ")
	return found && !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}

// Gone waits for the end of processes.
func Gone(t testing.TB, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		Eventually(t, "end of a process", func() error {
			if Alive(pid) {
				return fmt.Errorf("process %d lives", pid)
			}
			return nil
		})
	}
}

// Unified reports whether the machine has control groups v2 with controllers.
func Unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// Cgroup reads a file of the container's own control group. It takes the controller and file names
// of version 1 and the file name of version 2.
func (c *Container) Cgroup(t testing.TB, controller, v1, v2 string) string {
	t.Helper()
	path := c.cgroupDir(t, controller)
	if Unified() {
		path = filepath.Join(path, v2)
	} else {
		path = filepath.Join(path, v1)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// cgroupDir is the directory of the group that containerd's spec names: where users look for it.
func (c *Container) cgroupDir(t testing.TB, controller string) string {
	t.Helper()
	spec, err := c.Spec(c.env.Context)
	if err != nil {
		t.Fatal(err)
	}
	if Unified() {
		return filepath.Join("/sys/fs/cgroup", spec.Linux.CgroupsPath)
	}
	return filepath.Join("/sys/fs/cgroup", controller, spec.Linux.CgroupsPath)
}

// Members are the processes in the container's control group and the groups below it.
func (c *Container) Members(t testing.TB) []int {
	t.Helper()
	var pids []int
	_ = filepath.WalkDir(c.cgroupDir(t, "pids"), func(path string, _ os.DirEntry, err error) error {
		if err != nil || filepath.Base(path) != "cgroup.procs" {
			return nil //nolint:nilerr // a group that vanishes has no members
		}
		data, _ := os.ReadFile(path)
		for _, field := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}
