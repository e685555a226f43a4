package admin

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	containerd "github.com/containerd/containerd/v2/client"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/image"
)

// The list follows a container through its life, and knows whose it is.
func TestList(t *testing.T) {
	a := on(t)
	pod := a.NewID()
	c := a.Create(t, harness.ID(pod), harness.Forever(), harness.Pod(pod, "sandbox"))
	state := func(want string) row {
		t.Helper()
		r := a.row(c.ID())
		if r.State != want {
			t.Fatalf("state %q, want %q", r.State, want)
		}
		return r
	}
	if r := state("created"); r.VMID != 0 || r.Image != image.Busybox || r.Filesystem != "overlay" {
		t.Errorf("%+v: want an unregistered sandbox of %s on overlay", r, image.Busybox)
	}
	if err := c.Task.Start(a.Context); err != nil {
		t.Fatal(err)
	}
	if r := state("running"); r.Pid != int(c.Task.Pid()) || r.MemoryBytes == 0 || r.Started == "" {
		t.Errorf("%+v: want pid %d, memory and a time", r, c.Task.Pid())
	}
	if err := c.Task.Pause(a.Context); err != nil {
		t.Fatal(err)
	}
	state("paused")
	if err := c.Task.Resume(a.Context); err != nil {
		t.Fatal(err)
	}
	state("running")
	for _, format := range [][]string{nil, {"-o", "wide"}} {
		text := a.run(append([]string{"list"}, format...)...)
		if !strings.Contains(text, "running") || !strings.HasPrefix(text, "VMID") {
			t.Errorf("list %s: %s", format, text)
		}
	}
	c.Stop(t)
	if r := state("stopped"); r.Pid != 0 {
		t.Errorf("pid %d of a container that ended", r.Pid)
	}
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
	if text := a.run("list", "-o", "json"); strings.Contains(text, c.ID()) {
		t.Errorf("still there: %s", text)
	}
}

// Without containerd the list lacks images, says so, and is complete otherwise.
func TestListWithoutContainerd(t *testing.T) {
	a := on(t)
	c := a.Start(t, harness.Forever())
	out, errs, err := a.try("list", "-o", "json", "--address", filepath.Join(t.TempDir(), "none.sock"))
	if err != nil || !strings.Contains(errs, "hint: systemctl status containerd") {
		t.Errorf("%v, standard error %q", err, errs)
	}
	if !strings.Contains(out, c.ID()) {
		t.Errorf("%s is not in %s", c.ID(), out)
	}
}

// inspect finds a container by each of its names, and shows what somebody changed.
func TestInspect(t *testing.T) {
	a := on(t)
	c := a.Start(t, harness.Forever())
	vmid := fmt.Sprint(a.row(c.ID()).VMID)
	conf := filepath.Join(harness.Registrations(), "lxc", vmid+".conf")
	harness.Eventually(t, "the conf of a running container", func() error {
		text, err := os.ReadFile(conf)
		if err == nil && strings.Contains(string(text), "lock:") {
			err = fmt.Errorf("still locked")
		}
		return err
	})
	for _, name := range []string{vmid, c.ID(), a.Namespace + "/" + c.ID()} {
		r := parse[row](t, a.run("inspect", name, "-o", "json"))
		if r.ID != c.ID() || r.PVEDrift != "" || r.LXCDrift != "" || r.PVEProblem != "" || !strings.Contains(r.LXC, "lxc.rootfs.path") || r.PVE == "" || r.PVE != r.PVELive {
			t.Errorf("inspect %s: %+v", name, r)
		}
	}
	change := func(path, line string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(line + "\n"); err != nil {
			t.Fatal(err)
		}
	}
	change(conf, "cpulimit: 3")
	change(filepath.Join("/var/lib/lxc", vmid, "config"), "lxc.uts.name = changed")
	r := parse[row](t, a.run("inspect", vmid, "-o", "json"))
	if !strings.Contains(r.PVEDrift, "\n+cpulimit: 3") || !strings.Contains(r.LXCDrift, "\n+lxc.uts.name = changed") {
		t.Errorf("drift %q and %q", r.PVEDrift, r.LXCDrift)
	}
	if text := a.run("inspect", vmid); !strings.Contains(text, "+cpulimit: 3") || !strings.Contains(text, `"ociVersion"`) {
		t.Errorf("inspect: %s", text)
	}
	if _, errs, err := a.try("inspect", "no-such-container"); err == nil || !strings.Contains(errs, "(hint: pvelxc list)") {
		t.Errorf("inspect of nothing: %v, %q", err, errs)
	}
}

// A container is meant by the beginning of its id, unless that is another's too, or the whole id of another.
func TestNames(t *testing.T) {
	a := on(t)
	base := "n" + a.NewID()
	one, two := a.Start(t, harness.ID(base+"-one"), harness.Forever()), a.Start(t, harness.ID(base+"-two"), harness.Forever())
	short := a.Start(t, harness.ID(base), harness.Forever())
	for name, want := range map[string]string{base + "-o": one.ID(), base + "-two": two.ID(), base: short.ID(), a.Namespace + "/" + base + "-one": one.ID()} {
		if got := parse[row](t, a.run("inspect", name, "-o", "json")); got.ID != want {
			t.Errorf("%s is %s, want %s", name, got.ID, want)
		}
	}
	for name, hint := range map[string]string{
		base + "-": "several have that name", base + "-three": "hint: pvelxc list", base[:2]: "hint: pvelxc list", "none/" + base: "hint: pvelxc list",
	} {
		_, errs, err := a.try("inspect", name)
		if err == nil || !strings.Contains(errs, hint) {
			t.Errorf("%s: %v, %q, want %q", name, err, errs, hint)
		}
		if hint == "several have that name" && (!strings.Contains(errs, one.ID()) || !strings.Contains(errs, two.ID())) {
			t.Errorf("%s: %q does not name both", name, errs)
		}
	}
}

// logs joins the shim's lines, liblxc's and the monitor's by time.
func TestLogs(t *testing.T) {
	a := on(t)
	debug := &runtimeoptions.Options{ConfigBody: []byte("[runtime]\nlog_level = \"DEBUG\"\n")}
	c := a.Start(t, harness.Shell("exit 7"), harness.With(containerd.WithRuntime(harness.Pvelxc.Type, debug)))
	other := a.Start(t, harness.Shell("exit 8"))
	c.Wait(t)
	other.Wait(t)
	file := filepath.Join(a.Daemon.Dir, "log")
	text := a.run("logs", c.ID(), "--file", file)
	for _, want := range []string{" shim ", " monitor ", " lxc ", "exit status 7", `start\.c:post_start`, "shim disconnected|task|container"} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, other.ID()) || strings.Contains(text, "exit status 8") {
		t.Errorf("another container's lines are in\n%s", text)
	}
	entries := parse[[]struct {
		Time                   time.Time
		Source, Level, Message string
	}](t, a.run("logs", c.ID(), "--file", file, "--json"))
	sources := map[string]int{}
	for i, e := range entries {
		if sources[e.Source]++; i > 0 && e.Time.Before(entries[i-1].Time) {
			t.Errorf("%v is after %v", entries[i-1], e)
		}
	}
	if sources["shim"] == 0 || sources["lxc"] < 10 || sources["monitor"] != 1 || entries[0].Source == "monitor" {
		t.Errorf("sources %v of %d lines, the first by %s", sources, len(entries), entries[0].Source)
	}
	if _, errs, err := a.try("logs", "no-such-container"); err == nil || !strings.Contains(errs, "hint: pvelxc list") {
		t.Errorf("logs of nothing: %v, %q", err, errs)
	}
	if _, errs, _ := a.try("logs", c.ID(), "--file", "/nonexistent/log"); !strings.Contains(errs, "/nonexistent/log") {
		t.Errorf("a file that is not there: %q", errs)
	}
}

// explain says the same as what a start writes, and leaves nothing behind (the harness's census).
func TestExplain(t *testing.T) {
	a := on(t)
	c := a.Start(t, harness.Forever())
	bundle := a.Daemon.Bundle(a.Namespace, c.ID())
	got := parse[struct{ LXC, PVE string }](t, a.run("explain", bundle, "-n", a.Namespace, "-o", "json"))
	wrote, err := os.ReadFile(filepath.Join("/run/pvelxc/lxc", a.Namespace, c.ID(), "config"))
	if err != nil {
		t.Fatal(err)
	}
	if got.LXC != string(wrote) {
		t.Errorf("explain says\n%s\nand the start wrote\n%s", got.LXC, wrote)
	}
	if !strings.Contains(got.PVE, "lxc.group: pvelxc/") {
		t.Errorf("conf %s", got.PVE)
	}
	broken := t.TempDir()
	spec := `{"ociVersion":"1.2.0","root":{"path":"rootfs"},"process":{"args":["x"],"cwd":"relative","commandLine":"x"},"linux":{}}`
	if err := os.WriteFile(filepath.Join(broken, "config.json"), []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, err := a.try("explain", broken)
	if err == nil || !strings.Contains(out, "process.cwd: ") || !strings.Contains(out, "process.commandLine: ") || !strings.Contains(errs, "process.cwd") {
		t.Errorf("explain of a bundle that is refused: %v\n%s\n%s", err, out, errs)
	}
}

// A support bundle has what a report needs, and no secret of a container.
func TestSupportBundle(t *testing.T) {
	a := on(t)
	c := a.Start(t, harness.Shell("echo ARGUMENTSECRET >/dev/null; sleep 1000"), harness.Edit(func(s *specs.Spec) {
		s.Process.Env = append(s.Process.Env, "PASSWORD=ENVSECRET")
		s.Annotations = map[string]string{"example.com/note": "NOTESECRET"}
		s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/true", Args: []string{"true", "HOOKARGSECRET"}, Env: []string{"X=HOOKENVSECRET"}}}}
	}))
	// The state has the hooks that are to be run, and the node's file may name a token.
	conf := filepath.Join(t.TempDir(), "pvelxc.toml")
	node, err := os.ReadFile(filepath.Join(harness.Work, "pvelxc.toml"))
	if err == nil {
		err = os.WriteFile(conf, append(node, "\n[pve.api]\nurl = \"https://root:URLSECRET@127.0.0.1:8006\"\ntoken_file = \"/TOKENSECRET\"\n"...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "b.tar.gz")
	if _, errs, err := a.tryWith(conf, "support-bundle", "--output", archive); err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	out, err := exec.Command("tar", "-xzOf", archive).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"ARGUMENTSECRET", "ENVSECRET", "NOTESECRET", "HOOKARGSECRET", "HOOKENVSECRET", "TOKENSECRET", "URLSECRET"} {
		if strings.Contains(string(out), secret) {
			t.Errorf("%s is in the bundle", secret)
		}
	}
	for _, want := range []string{c.ID(), "lxc.rootfs.path", "runtime-handler", `"leftovers": `} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %s in the bundle", want)
		}
	}
	if info, err := os.Stat(archive); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, errs, err := a.try("support-bundle", "--output", archive); err == nil || !strings.Contains(errs, "hint: --output") {
		t.Errorf("an existing file was overwritten: %v %s", err, errs)
	}
}
