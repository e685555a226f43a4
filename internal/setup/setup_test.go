package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pvelxc/pvelxc/internal/host"
	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/shim/container"
	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/service"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/fake"
)

// machine is a node that is a directory: containerd is the real one, as far as its configuration
// goes; systemctl, zfs and ctr keep their state in files and fail where the file fail has a line
// that their command line begins with. The VM's suite 60-install has the real ones.
type machine struct {
	*host.Host
	t *testing.T
}

const scripts = `
-- systemctl
[ "$*" != "restart k3s.service" ] || "$state/k3s"
case $1 in
daemon-reload) ;;
is-active|is-enabled) [ -e "$state/$1.$3" ] ;;
enable|start|restart) for u; do case $u in *.*) touch "$state/is-active.$u"; [ $1 != enable ] || touch "$state/is-enabled.$u";; esac; done
	[ "$*" != "start pvelxc-snapshotter.service" ] || touch "$state/dataset" ;;
disable) for u; do rm -f "$state/is-enabled.$u"; done ;;
stop) for u; do rm -f "$state/is-active.$u"; done ;;
show) echo @9999999999 ;;
esac
-- zpool
echo ONLINE
-- zfs
case $1 in
list) [ -e "$state/dataset" ] ;;
destroy) rm "$state/dataset" ;;
esac
-- ctr
case "$*" in *" run "*) touch "$state/container" ;; *" tasks delete "*) rm -f "$state/container" ;; esac
-- k3s
case "$*" in *" run "*) touch "$state/container" ;; *" tasks delete "*) rm -f "$state/container" ;; esac
-- pvelxc-snapshotter
:
-- lxc-info
echo 6.0.4
`

func newMachine(t *testing.T, daemon string) *machine {
	t.Helper()
	peers, err := filepath.Abs("../../out/peers/containerd-" + daemon)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(peers, ".done")); err != nil {
		t.Skip("needs the built containerd (integration/peers/build.sh containerd containerd-1.7)")
	}
	root := t.TempDir()
	m := &machine{&host.Host{Root: root, Path: filepath.Join(root, "bin") + ":/usr/bin:/bin"}, t}
	for part := range strings.SplitSeq(scripts, "\n-- ") {
		name, body, found := strings.Cut(part, "\n")
		if !found || name == "" {
			continue
		}
		m.must(m.Write("/bin/"+name, fmt.Appendf(nil, "#!/bin/sh\nstate=%s\ncall=\"%s $*\"\necho \"$call\" >>$state/calls\nwhile read -r bad; do case $call in \"$bad\"*) echo \"$bad: made to fail\" >&2; exit 1;; esac; done <$state/fail\n%s\n",
			m.At("/state"), name, body), 0o755))
	}
	m.must(os.Symlink(filepath.Join(peers, "containerd"), m.At("/bin/containerd")))
	for path, text := range map[string]string{
		"/state/fail": "", "/state/calls": "", "/state/is-active.containerd.service": "",
		"/proc/sys/kernel/osrelease":         "6.12.0\n",
		"/sys/fs/cgroup/cgroup.controllers":  "cpuset cpu io memory pids\n",
		"/bin/containerd-shim-pvelxc-v2":     "",
		"/etc/containerd/config.toml":        "version = 2\n# mine\n",
		"/var/lib/kubelet/config.yaml":       "cgroupDriver: systemd\n",
		"/var/lib/pvelxc-snapshotter/.empty": "",
	} {
		m.must(m.Write(path, []byte(text), 0o644))
	}
	m.serveSnapshots()
	return m
}

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// serveSnapshots has the real service listen all the time.
func (m *machine) serveSnapshots() {
	b, err := fake.New(m.t.TempDir(), "rpool")
	m.must(err)
	sn, err := snapshotter.Open(m.t.Context(), snapshotter.Options{Root: "rpool/pvelxc", Dir: m.t.TempDir(), Backend: b, ForeignSnapshots: snapshotter.KeepForeign})
	m.must(err)
	m.must(os.MkdirAll(filepath.Dir(m.At(snapshotterSocket)), 0o755))
	l, err := net.Listen("unix", m.At(snapshotterSocket))
	m.must(err)
	done := make(chan error, 1)
	go func() { done <- service.Serve(m.t.Context(), l, service.Services{Snapshotter: sn}) }()
	m.t.Cleanup(func() { <-done; m.must(sn.Close()) })
}

func (m *machine) setup(o Options) *Setup {
	return &Setup{Host: m.Host, Options: o,
		Containers: func() ([]node.Container, error) {
			if !m.Exists("/state/container") {
				return nil, nil
			}
			return []node.Container{{Info: container.Info{Namespace: helloNamespace, ID: helloID, Alive: true}, VMID: 900001}}, nil
		},
		Hello: func() ([]byte, error) { return []byte("an image"), nil },
	}
}

// files are all that a run may change.
func (m *machine) files() map[string]string {
	m.t.Helper()
	found := map[string]string{}
	m.must(filepath.WalkDir(m.At("/"), func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, m.At("/"))
		if err != nil || !d.Type().IsRegular() || name == "/state/calls" || name == "/state/fail" {
			return err
		}
		data, err := os.ReadFile(path)
		found[name] = string(data)
		return err
	}))
	return found
}

func (m *machine) calls(prefix string) (found []string) {
	m.t.Helper()
	text, err := m.Read("/state/calls")
	m.must(err)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

func run1(t *testing.T, steps []Step, dryRun bool) (map[string]Event, error) {
	t.Helper()
	last := map[string]Event{}
	err := Run(t.Context(), steps, dryRun, func(e Event) { last[e.Step] = e })
	return last, err
}

var options = Options{Dataset: "rpool/pvelxc", Range: pve.Range{First: 800000, Last: 800099}}

func TestInstallAndUninstall(t *testing.T) {
	for _, daemon := range []string{"1.7.35", "2.4.2"} {
		t.Run(daemon, func(t *testing.T) {
			m := newMachine(t, daemon)
			before := m.files()
			s := m.setup(options)
			shown, err := run1(t, s.Install(), true)
			m.must(err)
			if diff := cmp.Diff(before, m.files()); diff != "" {
				t.Errorf("a dry run changed the machine: %s", diff)
			}
			if text := shown["containerd"].Text; !strings.Contains(text, "+runtime_type = 'io.containerd.pvelxc.v2'") || shown["containerd"].State != Would {
				t.Errorf("a dry run shows %+v", shown["containerd"])
			}

			s = m.setup(options)
			ran, err := run1(t, s.Install(), false)
			m.must(err)
			if !strings.Contains(ran["hello"].Text, "900001") {
				t.Errorf("hello: %+v", ran["hello"])
			}
			// containerd 1.7 asks a proxied differ without a namespace, which ours needs.
			if text := shown["containerd"].Text; strings.Contains(text, "pvelxc-diff") != (daemon != "1.7.35") {
				t.Errorf("a differ for containerd %s:\n%s", daemon, text)
			}
			conf, err := m.Read("/etc/pvelxc/config.toml")
			if err != nil || !strings.Contains(conf, `vmid_range = "800000-800099"`) || !strings.Contains(conf, "systemd_cgroup = true") {
				t.Errorf("config.toml %v: %s", err, conf)
			}
			if next := s.Next(); !strings.HasPrefix(next, "kubectl apply") {
				t.Errorf("next is %q", next)
			}
			installed, restarts := m.files(), len(m.calls("systemctl restart"))

			ran, err = run1(t, m.setup(options).Install(), false)
			m.must(err)
			for name, e := range ran {
				if e.State != Already && name != "hello" {
					t.Errorf("a second run does %+v", e)
				}
			}
			if diff := cmp.Diff(installed, m.files()); diff != "" || len(m.calls("systemctl restart")) != restarts {
				t.Errorf("a second run changed the machine: %s", diff)
			}

			_, err = run1(t, m.setup(Options{}).Uninstall(), false)
			m.must(err)
			after := m.files()
			for _, path := range []string{"/etc/pvelxc/config.toml", "/etc/pvelxc/snapshotter.toml"} {
				if after[path+".uninstalled"] != installed[path] {
					t.Errorf("%s was not kept", path)
				}
				delete(after, path+".uninstalled")
			}
			delete(after, "/state/dataset") // images stay
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("uninstalled, and not as before: %s", diff)
			}
		})
	}
}

// Each step, made to fail, leaves the machine as it was, and is named.
func TestEveryStepRollsBack(t *testing.T) {
	for step, fails := range map[string]struct {
		call    string
		prepare func(m *machine)
		options Options
	}{
		"preflight": {"lxc-info", nil, options},
		"dataset":   {"pvelxc-snapshotter -check", nil, options},
		"settings":  {"", func(m *machine) { m.must(m.Write("/etc/pvelxc", nil, 0o644)) }, Options{}},
		"containerd": {"", func(m *machine) {
			m.must(m.Write("/etc/containerd/config.toml", []byte("version = 2\nproxy_plugins = {x = {type = \"snapshot\", address = \"/x\"}}\n"), 0o644))
		}, options},
		"snapshotter": {"systemctl start pvelxc-snapshotter.service", nil, options},
		"timer":       {"systemctl enable --now pvelxc-gc.timer", nil, options},
		"restart":     {"systemctl restart containerd.service", nil, options},
		"hello":       {"ctr --address /run/containerd/containerd.sock --namespace pvelxc-install run", nil, options},
	} {
		t.Run(step, func(t *testing.T) {
			m := newMachine(t, "2.4.2")
			if fails.prepare != nil {
				fails.prepare(m)
			}
			m.must(m.Write("/state/fail", []byte(fails.call+"\n"), 0o644))
			if fails.call == "" {
				m.must(m.Write("/state/fail", nil, 0o644))
			}
			before := m.files()
			_, err := run1(t, m.setup(fails.options).Install(), false)
			var failed *Failure
			if !errors.As(err, &failed) || failed.Step != step {
				t.Fatalf("error %v, want one of step %s", err, step)
			}
			if fails.call != "" && !strings.Contains(err.Error(), "made to fail") {
				t.Errorf("the cause is lost: %v", err)
			}
			// A restart that fails cannot be made undone while restarts fail, and that is said.
			if step != "restart" && len(failed.Stuck) > 0 {
				t.Errorf("stuck: %v", failed.Stuck)
			}
			after := m.files()
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("%v\nleft: %s", err, diff)
			}
			restarted := m.calls("systemctl restart")
			if step == "hello" && len(restarted) != 2 {
				t.Errorf("containerd runs on with what was taken back: %q", restarted)
			}
		})
	}
}

// A pool that cannot be written to, and a container that ran not as it should, end an installation with what was seen.
func TestInstallLooks(t *testing.T) {
	for want, test := range map[string]struct {
		step    string
		prepare func(m *machine, s *Setup)
	}{
		"pool rpool is SUSPENDED": {"dataset", func(m *machine, _ *Setup) {
			m.must(m.Write("/bin/zpool", []byte("#!/bin/sh\necho SUSPENDED\n"), 0o755))
		}},
		"the container has ended at once":            {"hello", func(_ *machine, s *Setup) { s.Containers = hello(container.Info{Alive: false}, "") }},
		"the container is not registered: no quorum": {"hello", func(_ *machine, s *Setup) { s.Containers = hello(container.Info{Alive: true}, "no quorum") }},
		"the container was not made by pvelxc": {"hello", func(_ *machine, s *Setup) {
			s.Containers = func() ([]node.Container, error) { return nil, nil }
		}},
	} {
		m := newMachine(t, "2.4.2")
		s := m.setup(options)
		test.prepare(m, s)
		before := m.files()
		_, err := run1(t, s.Install(), false)
		var failed *Failure
		if !errors.As(err, &failed) || failed.Step != test.step || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one of %s with %q", err, test.step, want)
		}
		if diff := cmp.Diff(before, m.files()); diff != "" {
			t.Errorf("%s: left: %s", want, diff)
		}
	}
}

// hello is a node on which the container that install runs became one thing.
func hello(info container.Info, unregistered string) func() ([]node.Container, error) {
	info.Namespace, info.ID = helloNamespace, helloID
	return func() ([]node.Container, error) {
		return []node.Container{{Info: info, Unregistered: unregistered}}, nil
	}
}

// config-dump is there for the case that the file on disk is not what was tried.
func TestConfigDumpRollsBack(t *testing.T) {
	for name, breaks := range map[string]func(text string) string{
		"broken":  func(text string) string { return text + "[broken\n" },
		"without": func(string) string { return "version = 2\n" },
	} {
		m := newMachine(t, "2.4.2")
		before := m.files()
		steps := m.setup(options).Install()
		i := slices.IndexFunc(steps, func(s Step) bool { return s.Name == "containerd" })
		do := steps[i].Do
		steps[i].Do = func(ctx ctx) error {
			m.must(do(ctx))
			text, err := m.Read("/etc/containerd/config.toml")
			m.must(err)
			return m.Write("/etc/containerd/config.toml", []byte(breaks(text)), 0o644)
		}
		_, err := run1(t, steps, false)
		var failed *Failure
		if !errors.As(err, &failed) || failed.Step != "config-dump" {
			t.Fatalf("%s: error %v, want one of config-dump", name, err)
		}
		if diff := cmp.Diff(before, m.files()); diff != "" {
			t.Errorf("%s: left: %s", name, diff)
		}
	}
}

// What was done last is undone first, and what had nothing to do is left alone; an undoing that fails keeps none of
// the others from being tried, and is told.
func TestRollbackOrder(t *testing.T) {
	var did []string
	step := func(name string, change bool, do, undo error) Step {
		return Step{
			Name: name,
			Plan: func(ctx) (string, error) { return map[bool]string{true: "a change"}[change], nil },
			Do:   func(ctx) error { did = append(did, "do "+name); return do },
			Undo: func(ctx) error { did = append(did, "undo "+name); return undo },
		}
	}
	stuck, broken := errors.New("stuck"), errors.New("broken")
	_, err := run1(t, []Step{
		step("one", true, nil, nil), step("two", false, nil, nil), step("three", true, nil, stuck), step("four", true, broken, nil), step("five", true, nil, nil),
	}, false)
	want := []string{"do one", "do three", "do four", "undo four", "undo three", "undo one"}
	if diff := cmp.Diff(want, did); diff != "" {
		t.Error(diff)
	}
	if !errors.Is(err, broken) || !strings.HasSuffix(err.Error(), "step four: broken; rolled back: four, one; NOT rolled back: three: stuck") {
		t.Errorf("error %v", err)
	}
}

func TestUninstallRefuses(t *testing.T) {
	m := newMachine(t, "2.4.2")
	_, err := run1(t, m.setup(options).Install(), false)
	m.must(err)
	m.must(m.Write("/state/container", nil, 0o644))
	before := m.files()
	_, err = run1(t, m.setup(Options{}).Uninstall(), false)
	if err == nil || !strings.Contains(err.Error(), "1 containers run") || !strings.Contains(err.Error(), "--force") {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(before, m.files()); diff != "" {
		t.Errorf("refused, and changed: %s", diff)
	}
	_, err = run1(t, m.setup(Options{Force: true}).Uninstall(), false)
	m.must(err)
}

// Each step of uninstall, made to fail, leaves the node installed.
func TestUninstallRollsBack(t *testing.T) {
	for step, call := range map[string]string{
		"restart":     "systemctl restart containerd.service",
		"timer":       "systemctl disable pvelxc-gc.timer",
		"snapshotter": "systemctl disable pvelxc-snapshotter.socket",
	} {
		m := newMachine(t, "2.4.2")
		_, err := run1(t, m.setup(options).Install(), false)
		m.must(err)
		before := m.files()
		m.must(m.Write("/state/fail", []byte(call+"\n"), 0o644))
		_, err = run1(t, m.setup(Options{}).Uninstall(), false)
		var failed *Failure
		if !errors.As(err, &failed) || failed.Step != step {
			t.Errorf("error %v, want one of step %s", err, step)
		}
		if diff := cmp.Diff(before, m.files()); diff != "" {
			t.Errorf("%s: left: %s", step, diff)
		}
	}
}

// The last step, made to fail: a file cannot take the place of a directory. All that was done before is done again.
func TestUninstallOfSettingsRollsBack(t *testing.T) {
	m := newMachine(t, "2.4.2")
	_, err := run1(t, m.setup(options).Install(), false)
	m.must(err)
	m.must(m.Write("/etc/pvelxc/snapshotter.toml.uninstalled/x", nil, 0o644))
	before := m.files()
	_, err = run1(t, m.setup(Options{}).Uninstall(), false)
	var failed *Failure
	if !errors.As(err, &failed) || failed.Step != "settings" || len(failed.Stuck) > 0 {
		t.Errorf("error %v, want one of settings", err)
	}
	if diff := cmp.Diff(before, m.files()); diff != "" {
		t.Errorf("left: %s", diff)
	}
}

// What an administrator chose before is not overruled.
func TestInstallKeepsChoices(t *testing.T) {
	for name, test := range map[string]struct{ path, text, want string }{
		"another dataset":  {"/etc/pvelxc/snapshotter.toml", "version = 1\nroot = \"tank/x\"\n", "hint: --dataset tank/x"},
		"another range":    {"/etc/pvelxc/config.toml", "version = 1\n[pve]\nvmid_range = \"700000-700009\"\n", "not 800000-800099"},
		"broken settings":  {"/etc/pvelxc/config.toml", "version = 1\nx = 1\n", "pvelxc config check"},
		"broken dataset's": {"/etc/pvelxc/snapshotter.toml", "root =\n", "pvelxc-snapshotter -check"},
	} {
		m := newMachine(t, "2.4.2")
		m.must(m.Write(test.path, []byte(test.text), 0o644))
		_, err := run1(t, m.setup(options).Install(), false)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, test.want)
		}
		if text, err := m.Read(test.path); err != nil || text != test.text {
			t.Errorf("%s: %s is %q now (%v)", name, test.path, text, err)
		}
	}
}
