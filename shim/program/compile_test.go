package program

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// plan is an ordinary container: what containerd asks for, and some more.
func plan(root string) *oci2lxc.Plan {
	timeout := 30
	return &oci2lxc.Plan{
		Namespaces: []oci2lxc.Namespace{{Type: specs.PIDNamespace, Mode: oci2lxc.NamespaceNew}, {Type: specs.CgroupNamespace, Mode: oci2lxc.NamespaceNew}},
		Rootfs:     oci2lxc.Rootfs{Path: root, Readonly: true},
		Mounts: []oci2lxc.Mount{
			{Kind: oci2lxc.MountNew, Index: 0, Destination: "/proc", Source: "proc", FSType: "proc", AttrSet: procAttr, Propagation: unix.MS_PRIVATE},
			{Kind: oci2lxc.MountNew, Index: 1, Destination: "/dev", Source: "tmpfs", FSType: "tmpfs", AttrSet: unix.MOUNT_ATTR_NOSUID, Params: []oci2lxc.FSParam{{Key: "mode", Value: "755"}}, Propagation: unix.MS_PRIVATE},
			{Kind: oci2lxc.MountNew, Index: 2, Destination: "/dev/pts", Source: "devpts", FSType: "devpts", Params: []oci2lxc.FSParam{{Key: "ptmxmode", Value: "0666"}}, Propagation: unix.MS_PRIVATE},
			{Kind: oci2lxc.MountTree, Index: 3, Destination: "/data", Source: "/host", Propagation: unix.MS_PRIVATE, PropagationRecursive: true},
			{Kind: oci2lxc.MountTree, Index: 4, Destination: "/both", Source: "/host2", Propagation: unix.MS_SHARED, PropagationRecursive: true},
			{Kind: oci2lxc.MountNew, Index: 5, Destination: "/both/tmp", Source: "tmpfs", FSType: "tmpfs", Propagation: unix.MS_PRIVATE},
			{Kind: oci2lxc.MountRemount, Index: 6, Destination: "/data", AttrSet: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE},
		},
		Devices: []oci2lxc.Device{
			{Path: "/dev/null", Type: 'c', Major: 1, Minor: 3, Mode: 0o666},
			{Path: "/dev/tty", Type: 'c', Major: 5, Minor: 0, Mode: 0o666},
			{Path: "/dev/fifo", Type: 'p', Mode: 0o600, UID: 3},
		},
		Links: []oci2lxc.Link{{Path: "/dev/fd", Target: "/proc/self/fd"}, {Path: "/dev/ptmx", Target: "pts/ptmx"}},
		Setup: oci2lxc.Setup{
			Hostname: "box", Sysctls: []oci2lxc.Sysctl{{Path: "net/ipv4/ip_forward", Value: "1"}},
			MaskedPaths: []string{"/proc/timer_list", "/proc/irq"}, ReadonlyPaths: []string{"/proc/sys"},
		},
		Process: oci2lxc.Process{
			Args: []string{"sh", "-c", "id -u; id -g; hostname; cat /proc/sys/net/ipv4/ip_forward /proc/timer_list /data/hello /tmp/started; touch /x /data/x 2>&1; readlink /dev/fd; stat -c %F:%u /dev/fifo; echo $HOME; pwd; exit 3"},
			Env:  []string{"PATH=/none", "PATH=/bin"}, Cwd: "/srv/dir", UID: 1000, GID: 1000,
			Rlimits:         []oci2lxc.Rlimit{{Resource: unix.RLIMIT_CORE}},
			NoNewPrivileges: true,
		},
		Hooks: specs.Hooks{
			CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat > " + root + "/created"}, Env: []string{"PATH=/bin"}, Timeout: &timeout}},
			StartContainer:  []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat > /dev/started"}, Env: []string{"PATH=/bin"}}},
		},
	}
}

func TestWholeContainer(t *testing.T) {
	t.Run("host", func(t *testing.T) { wholeContainer(t, options{hook: true}) })
	t.Run("user namespace", func(t *testing.T) { wholeContainer(t, options{hook: true, userns: true}) })
}

func wholeContainer(t *testing.T, o options) {
	needRoot(t)
	root, host := newRoot(t), t.TempDir()
	writeFile(t, host+"/hello", "hello\n", 0o644)
	pl := plan(root)
	pl.Process.Args[2] = strings.Replace(pl.Process.Args[2], "/tmp/started", "/dev/started", 1)
	if err := os.Remove(root + "/proc"); err != nil {
		t.Fatal(err)
	}
	host2 := t.TempDir()
	mkdir(t, host2+"/tmp") // root of a user namespace could not make it
	in := HookInput{Plan: pl, Trees: map[int]*os.File{3: tree(t, host), 4: tree(t, host2)}, State: []byte("created\n")}
	if o.userns {
		if err := os.Chown(root, 100000, 100000); err != nil {
			t.Fatal(err)
		}
		in.Devices = map[string]*os.File{"/dev/null": tree(t, "/dev/null"), "/dev/tty": tree(t, "/dev/tty")}
	}
	r := startInit(t, o, root)
	hook, err := Hook(in)
	if err != nil {
		t.Fatal(err)
	}
	r.send(hook)
	if m := r.recv(); m.Type != MsgSync || m.Arg != SyncMounted {
		t.Fatalf("got %+v (%v), want SyncMounted", m, hook.Error(m))
	}
	if err := r.conn.Send(t.Context(), MsgGo, 0); err != nil {
		t.Fatal(err)
	}
	if m := r.recv(); m.Type != MsgDone {
		t.Fatalf("got %+v (%v), want MsgDone", m, hook.Error(m))
	}
	init, err := Init(InitInput{Plan: pl, NullTree: tree(t, "/dev/null"), State: []byte("started\n"), Keyring: "_ses.x", Seccomp: &Seccomp{Filter: filter(t, unix.SYS_SETHOSTNAME)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.serve(init, nil); err != nil {
		t.Fatal(err)
	}
	_ = r.wait()
	want := "1000\n1000\nbox\n1\nhello\nstarted\ntouch: /x: Read-only file system\ntouch: /data/x: Read-only file system\n/proc/self/fd\nfifo:3\n/\n/srv/dir\n"
	if diff := cmp.Diff(want, r.out.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	if code := r.cmd.ProcessState.ExitCode(); code != 3 {
		t.Errorf("exit status %d, want 3", code)
	}
	if b, _ := os.ReadFile(root + "/created"); string(b) != "created\n" {
		t.Errorf("createContainer hook read %q", b)
	}
}

func TestContainerWithoutProc(t *testing.T) {
	root := newRoot(t)
	pl := &oci2lxc.Plan{Rootfs: oci2lxc.Rootfs{Path: root}, Process: oci2lxc.Process{Args: []string{"/bin/ls", "-A", "/proc"}, Cwd: "/"}}
	r := startInit(t, options{hook: true}, root)
	hook, err := Hook(HookInput{Plan: pl})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.serve(hook, nil); err != nil {
		t.Fatal(err)
	}
	init, err := Init(InitInput{Plan: pl})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.serve(init, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(); err != nil || r.out.String() != "" {
		t.Errorf("%v, /proc holds %q, want nothing", err, r.out.String())
	}
}

func TestHookOrder(t *testing.T) {
	pl := plan("/root")
	var trees []*os.File // apart: a test's own streams may be one and the same
	for range 3 {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		trees = append(trees, f)
	}
	p, err := Hook(HookInput{Plan: pl, Trees: map[int]*os.File{3: trees[0], 4: trees[1]}, Devices: map[string]*os.File{"/dev/null": trees[2]}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"receive descriptors", "open root /root (root.path)", "mount proc on /proc (mounts[0])", "mount tmpfs on /dev (mounts[1])",
		"mount devpts on /dev/pts (mounts[2])", "mount /host on /data (mounts[3])", "mount /host2 on /both (mounts[4])", "mount tmpfs on /both/tmp (mounts[5])",
		"change the mount on /data (mounts[6])", "mount device /dev/null on /dev/null (linux.devices)", "make device /dev/tty (linux.devices)",
		"make device /dev/fifo (linux.devices)", "link /dev/fd to /proc/self/fd", "link /dev/ptmx to pts/ptmx", "wait for the shim",
		"run hook /bin/sh (hooks.createContainer[0])",
	}
	if diff := cmp.Diff(want, p.Ops()); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
	if got := p.Files(); !slices.Equal(got, trees) {
		t.Errorf("descriptors: %v", got)
	}
	if _, err := Hook(HookInput{Plan: pl}); err == nil || !strings.Contains(err.Error(), "mounts[3]") {
		t.Errorf("tree missing: got %v, want an error that names mounts[3]", err)
	}
}

func TestHookCgroup(t *testing.T) {
	mount := oci2lxc.Mount{Kind: oci2lxc.MountCgroup, Destination: "/sys/fs/cgroup", AttrSet: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}
	pl := func(mode oci2lxc.NamespaceMode) *oci2lxc.Plan {
		return &oci2lxc.Plan{
			Namespaces: []oci2lxc.Namespace{{Type: specs.CgroupNamespace, Mode: mode}}, Rootfs: oci2lxc.Rootfs{Path: "/r"},
			Mounts: []oci2lxc.Mount{{Kind: oci2lxc.MountNew, Destination: "/proc", FSType: "proc", Index: -1}, mount},
		}
	}
	ops := func(in HookInput) string {
		t.Helper()
		p, err := Hook(in)
		if err != nil {
			return err.Error()
		}
		return strings.Join(p.Ops()[2:len(p.Ops())-1], "; ")
	}
	v1 := CgroupTrees{Controllers: []CgroupController{{Name: "cpu,cpuacct", Tree: os.Stdin, Links: []string{"cpu"}}}}
	for name, c := range map[string]struct {
		in   HookInput
		want string
	}{
		"v2 new":               {HookInput{Plan: pl(oci2lxc.NamespaceNew)}, "create the cgroup namespace (linux.namespaces); mount proc on /proc; mount cgroup2 on /sys/fs/cgroup (mounts[0])"},
		"v2 join":              {HookInput{Plan: pl(oci2lxc.NamespaceJoin), CgroupNamespace: os.Stdin}, "join a namespace (linux.namespaces); mount proc on /proc; mount cgroup2 on /sys/fs/cgroup (mounts[0])"},
		"v2 host":              {HookInput{Plan: pl(oci2lxc.NamespaceHost), Cgroups: map[int]CgroupTrees{1: {Unified: os.Stdin}}}, "mount proc on /proc; mount cgroup2 on /sys/fs/cgroup (mounts[0])"},
		"v2 host without tree": {HookInput{Plan: pl(oci2lxc.NamespaceHost)}, "mounts[0]: a tree of the container's cgroup is missing"},
		"v1": {HookInput{Plan: pl(oci2lxc.NamespaceNew), Cgroups: map[int]CgroupTrees{1: v1}}, "mount proc on /proc; mount tmpfs on /sys/fs/cgroup (mounts[0]); make directory /sys/fs/cgroup/cpu,cpuacct (mounts[0]); " +
			"mount cgroup cpu,cpuacct on /sys/fs/cgroup/cpu,cpuacct (mounts[0]); link /sys/fs/cgroup/cpu to cpu,cpuacct (mounts[0]); change the mount on /sys/fs/cgroup (mounts[0])"},
		"bad name": {HookInput{Plan: pl(oci2lxc.NamespaceNew), Cgroups: map[int]CgroupTrees{1: {Controllers: []CgroupController{{Name: "../x", Tree: os.Stdin}}}}}, `mounts[0]: hierarchy "../x" is not a file name`},
	} {
		if diff := cmp.Diff(c.want, ops(c.in)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A network namespace of the container's own gets its lo up before any hook.
func TestHookLoopback(t *testing.T) {
	for mode, want := range map[oci2lxc.NamespaceMode]bool{oci2lxc.NamespaceNew: true, oci2lxc.NamespaceJoin: false, oci2lxc.NamespaceHost: false} {
		p, err := Hook(HookInput{Plan: &oci2lxc.Plan{
			Namespaces: []oci2lxc.Namespace{{Type: specs.NetworkNamespace, Mode: mode}}, Rootfs: oci2lxc.Rootfs{Path: "/r"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(p.Ops(), "bring up lo (linux.namespaces)"); got != want {
			t.Errorf("%s: %t in %q", mode, got, p.Ops())
		}
	}
}

func TestInitOrder(t *testing.T) {
	pl := plan("/root")
	pl.Process.Terminal = true
	pl.Process.AppArmorProfile = "p"
	before := []string{
		"receive descriptors", "create the cgroup namespace (linux.namespaces)", "set host name box (hostname)",
		`set sysctl net/ipv4/ip_forward to "1" (linux.sysctl)`, "make directory /srv/dir (process.cwd)", "open a terminal (process.terminal)",
		"make /proc/sys read-only (linux.readonlyPaths)", "mask /proc/timer_list (linux.maskedPaths)", "mask /proc/irq (linux.maskedPaths)",
		"set the propagation of mounts", "change the root mount (root.readonly)", `find "sh" (process.args)`, "wait for the shim",
		"run hook /bin/sh (hooks.startContainer[0])", "set umask 022 (process.user.umask)", "give stdio to uid 1000 (process.user)",
		`set AppArmor profile "p" (process.apparmorProfile)`, "find the home directory of uid 1000 (process.user.uid)", "change to directory /srv/dir (process.cwd)",
	}
	after := []string{
		"open the exec pipe", "set limit RLIMIT_CORE to 0:0 (process.rlimits)", "change to user 1000:1000 (process.user)",
		"change to directory /srv/dir (process.cwd)", "reset signals", "load the seccomp filter (linux.seccomp)",
	}
	for name, c := range map[string]struct {
		nnp  bool
		want []string
	}{
		"no_new_privs": {true, slices.Concat(before, []string{"set no_new_privs (process.noNewPrivileges)"}, after)},
		"capabilities": {false, slices.Concat(before, after)},
	} {
		pl.Process.NoNewPrivileges = c.nnp
		p, err := Init(InitInput{Plan: pl, NullTree: os.Stdin, Seccomp: &Seccomp{Filter: make([]byte, 8)}})
		if err != nil {
			t.Fatal(err)
		}
		ops := p.Ops()
		if diff := cmp.Diff(c.want, ops[:len(ops)-1]); diff != "" {
			t.Errorf("%s: operations (-want +got):\n%s", name, diff)
		}
		if last := ops[len(ops)-1]; !strings.HasPrefix(last, "exec ") {
			t.Errorf("%s: the last operation is %q", name, last)
		}
	}
}

func TestPropagations(t *testing.T) {
	want := []Propagation{{Path: "/"}, {Path: "/both", Flag: unix.MS_SHARED, Recursive: true}, {Path: "/both/tmp", Flag: unix.MS_PRIVATE}}
	if diff := cmp.Diff(want, propagations(plan("/r"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLastWins(t *testing.T) {
	got := lastWins([]string{"A=1", "B=2", "A=3", "plain", "C=", "plain"})
	if diff := cmp.Diff([]string{"B=2", "A=3", "C=", "plain"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBuilderRefusals(t *testing.T) {
	for name, set := range map[string]func(*Builder){
		"NUL":                  func(b *Builder) { b.Hostname("a\x00b") },
		"descriptor missing":   func(b *Builder) { b.FDs(); b.Setns(nil, 0) },
		"descriptor, no table": func(b *Builder) { b.Setns(os.Stdin, 0) },
		"no arguments":         func(b *Builder) { b.process(&oci2lxc.Process{}, processInput{}) },
	} {
		b := new(Builder)
		set(b)
		if _, err := b.Program(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestOpError(t *testing.T) {
	b := new(Builder)
	b.For("mounts[0]").MountFS("proc", "proc", "/proc", nil, 0, 0)
	p := program(t, b)
	err := p.Error(&Message{Type: MsgError, Op: 0, Err: unix.EPERM, Text: "make the mount"})
	if got := err.Error(); got != "mount proc on /proc (mounts[0]): make the mount: operation not permitted" {
		t.Errorf("got %q", got)
	}
	if !errors.Is(err, unix.EPERM) {
		t.Error("does not unwrap to EPERM")
	}
	if err := p.Error(&Message{Op: 99, Text: "exit status 1"}); err.Error() != "exit status 1" || errors.Unwrap(err) != nil {
		t.Errorf("got %q, unwrapping to %v", err, errors.Unwrap(err))
	}
	r, w, perr := os.Pipe()
	if perr != nil {
		t.Fatal(perr)
	}
	if _, err := w.Write([]byte("garbage")); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := p.WaitExec(t.Context(), r); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("garbage in the pipe: %v", err)
	}
}
