// Package admin tests what the administrator's command says of containers that run.
package admin

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// admin is the command on a node with containerd.
type admin struct {
	*harness.Env
	t *testing.T
}

func on(t *testing.T) *admin { return &admin{harness.On(t, harness.Pvelxc), t} }

// try runs the command; what it prints is its standard output.
func (a *admin) try(args ...string) (stdout, stderr string, err error) {
	return a.tryWith(filepath.Join(harness.Work, "pvelxc.toml"), args...)
}

// tryWith is try with another configuration.
func (a *admin) tryWith(conf string, args ...string) (stdout, stderr string, err error) {
	cmd := exec.Command(filepath.Join(daemon.Bin(), "pvelxc"), args...)
	cmd.Env = append(os.Environ(), "PVELXC_CONFIG="+conf, "CONTAINERD_ADDRESS="+a.Daemon.Address)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

func (a *admin) run(args ...string) string {
	a.t.Helper()
	out, errs, err := a.try(args...)
	if err != nil || errs != "" {
		a.t.Fatalf("pvelxc %s: %v: %s", strings.Join(args, " "), err, errs)
	}
	return out
}

// row is what list -o json and inspect -o json have of a container.
type row struct {
	VMID        int     `json:"vmid"`
	Namespace   string  `json:"namespace"`
	ID          string  `json:"id"`
	Pod         string  `json:"pod"`
	Image       string  `json:"image"`
	State       string  `json:"state"`
	Pid         int     `json:"pid"`
	Filesystem  string  `json:"filesystem"`
	Started     string  `json:"started"`
	CPUSeconds  float64 `json:"cpuSeconds"`
	MemoryBytes uint64  `json:"memoryBytes"`
	LXC         string  `json:"lxc"`
	LXCDrift    string  `json:"lxcDrift"`
	PVE         string  `json:"pve"`
	PVELive     string  `json:"pveLive"`
	PVEDrift    string  `json:"pveDrift"`
	PVEProblem  string  `json:"pveProblem"`
}

func parse[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

// row is a container's in the list.
func (a *admin) row(id string) row {
	a.t.Helper()
	for _, r := range parse[[]row](a.t, a.run("list", "-o", "json")) {
		if r.ID == id && r.Namespace == a.Namespace {
			return r
		}
	}
	a.t.Fatalf("%s is not in the list:\n%s", id, a.run("list"))
	return row{}
}

// sleepIn has a process sleep in a control group, until the function that it returns is called.
func sleepIn(t *testing.T, group string) (end func()) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(end)
	if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	return end
}
