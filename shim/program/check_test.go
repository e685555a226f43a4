package program

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// checker is shim/init/check.c: it judges programs as pvelxc-init does.
type checker struct {
	mu     sync.Mutex
	in     io.WriteCloser
	out    io.Reader
	stderr bytes.Buffer
	cmd    *exec.Cmd
}

func newChecker(t testing.TB, command ...string) *checker {
	t.Helper()
	c := &checker{cmd: exec.Command(command[0], command[1:]...)}
	c.cmd.Env = append(os.Environ(), "ASAN_OPTIONS=allocator_may_return_null=1", "UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1")
	c.cmd.Stderr = &c.stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if c.out, err = c.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.in.Close()
		if err := c.cmd.Wait(); err != nil {
			t.Errorf("checker: %v\n%s", err, c.stderr.String())
		}
	})
	return c
}

func sanitized(t testing.TB) *checker {
	return newChecker(t, compile(t, "check", "-DPVX_CHECK", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
}

func (c *checker) accepts(t testing.TB, role Role, prog []byte) bool {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	frame := order.AppendUint32(order.AppendUint32(nil, uint32(role)), uint32(len(prog)))
	verdict := make([]byte, 1)
	_, err := c.in.Write(append(frame, prog...))
	if err == nil {
		_, err = io.ReadFull(c.out, verdict)
	}
	if err != nil {
		t.Fatalf("the checker died of a program with %d bytes: %v", len(prog), err)
	}
	return verdict[0] == 1
}

// everyOp has one operation of each kind, by the roles that may have it.
func everyOp(t testing.TB) map[string]struct {
	op    func(*Builder)
	roles []Role
} {
	all, containers := []Role{RoleHook, RoleInit, RoleExec, RoleSandbox}, []Role{RoleHook, RoleInit, RoleExec}
	hook, both, namespaces := []Role{RoleHook}, []Role{RoleHook, RoleInit}, []Role{RoleHook, RoleInit, RoleSandbox}
	init, initial, sandbox := []Role{RoleInit}, []Role{RoleInit, RoleSandbox}, []Role{RoleSandbox}
	exec, process, privilege := []Role{RoleExec}, []Role{RoleInit, RoleExec}, []Role{RoleInit, RoleExec, RoleSandbox}
	f := os.Stdin
	return map[string]struct {
		op    func(*Builder)
		roles []Role
	}{
		"fds":  {func(*Builder) {}, all},
		"sync": {func(b *Builder) { b.Sync(1) }, all},
		"hook": {func(b *Builder) {
			b.RunHook(specs.Hook{Path: "/x", Args: []string{"a", ""}, Env: []string{"A="}}, []byte("{}"))
		}, containers},

		"root": {func(b *Builder) { b.Root("/") }, hook},
		"mount_fs": {func(b *Builder) {
			b.MountFS("a", "", "/", []oci2lxc.FSParam{{Key: "k", Value: "v"}, {Key: "f", Flag: true}}, 1, 2)
		}, hook},
		"mount_tree": {func(b *Builder) { b.MountTree(f, "", "/x", 1, true) }, hook},
		"attr":       {func(b *Builder) { b.Attr("/x", 1, 2, 3, true) }, hook},
		"configure": {func(b *Builder) {
			b.Configure("/", []oci2lxc.FSParam{{Key: "k", Value: "v"}, {Key: "f", Flag: true}})
		}, hook},
		"mknod":          {func(b *Builder) { b.Mknod("/x", 1, 2, 3, 4, 5) }, hook},
		"symlink":        {func(b *Builder) { b.Symlink("x", "/y") }, hook},
		"mkdir":          {func(b *Builder) { b.Mkdir("/x", 0o755) }, both},
		"unshare_cgroup": {func(b *Builder) { b.UnshareCgroup() }, both},
		"setns":          {func(b *Builder) { b.Setns(f, 1) }, namespaces},
		"loopback":       {func(b *Builder) { b.Loopback() }, both},

		"hostname":    {func(b *Builder) { b.Hostname("x") }, initial},
		"domainname":  {func(b *Builder) { b.Domainname("x") }, init},
		"sysctl":      {func(b *Builder) { b.Sysctl("x", "1") }, initial},
		"mask":        {func(b *Builder) { b.Mask(f, "/x") }, init},
		"readonly":    {func(b *Builder) { b.Readonly("/x") }, init},
		"propagation": {func(b *Builder) { b.SetPropagation(1, []Propagation{{"/x", 1, true}, {"/y", 2, false}}) }, init},
		"root_attr":   {func(b *Builder) { b.RootAttr(1, 2) }, init},
		"timens":      {func(b *Builder) { b.TimeNamespace("x") }, init},
		"unmount":     {func(b *Builder) { b.Unmount("/x") }, init},
		"terminal":    {func(b *Builder) { b.Terminal(1, 2, 3, true) }, process},
		"lookpath":    {func(b *Builder) { b.LookPath("x", "/bin", "/") }, init},

		"enter": {func(b *Builder) { b.Enter(f, nil, []*os.File{f, os.Stdout}, 1, true, []int{1, 2}) }, exec},

		"unshare":    {func(b *Builder) { b.Unshare(1) }, sandbox},
		"empty_root": {func(b *Builder) { b.EmptyRoot() }, sandbox},
		"hold":       {func(b *Builder) { b.Hold() }, sandbox},

		"keyring":     {func(b *Builder) { b.Keyring("x") }, process},
		"personality": {func(b *Builder) { b.Personality(1) }, process},
		"rlimit":      {func(b *Builder) { b.Rlimit(oci2lxc.Rlimit{}, true) }, process},
		"sched":       {func(b *Builder) { b.Scheduler(oci2lxc.Scheduler{}) }, process},
		"ioprio":      {func(b *Builder) { b.IOPriority(1) }, process},
		"mempolicy":   {func(b *Builder) { b.MemoryPolicy(oci2lxc.MemoryPolicy{Nodes: []int{1, 70}}) }, process},
		"affinity":    {func(b *Builder) { b.Affinity([]int{1, 2}) }, process},
		"umask":       {func(b *Builder) { b.Umask(1) }, process},
		"lsm":         {func(b *Builder) { b.LSM(LSMAppArmor, "x") }, process},
		"nnp":         {func(b *Builder) { b.NoNewPrivileges() }, privilege},
		"stdio_owner": {func(b *Builder) { b.StdioOwner(1) }, process},
		"home":        {func(b *Builder) { b.Home(1) }, process},
		"ready":       {func(b *Builder) { b.Ready() }, process},
		"signals":     {func(b *Builder) { b.Signals(1) }, process},
		"seccomp":     {func(b *Builder) { b.LoadSeccomp(Seccomp{Filter: make([]byte, 8)}) }, process},
		"user":        {func(b *Builder) { b.User(oci2lxc.Capabilities{}, true, 1, 2, []uint32{3, 4}) }, privilege},
		"cwd":         {func(b *Builder) { b.Cwd("/", true) }, process},
		"exec":        {func(b *Builder) { b.Exec([]string{"x", ""}, []string{"A=b"}) }, process},
	}
}

func TestCheck(t *testing.T) {
	c := sanitized(t)
	header, err := os.ReadFile("../init/commands.c")
	if err != nil {
		t.Fatal(err)
	}
	ops := everyOp(t)
	if n := strings.Count(string(header), "{ PVX_OP_"); n != len(ops) {
		t.Errorf("pvelxc-init knows %d operations, this test %d", n, len(ops))
	}
	for name, o := range ops {
		b := new(Builder)
		b.FDs()
		o.op(b)
		prog := program(t, b).Bytes()
		for _, role := range []Role{0, RoleHook, RoleInit, RoleExec, RoleSandbox, 31} {
			if got, want := c.accepts(t, role, prog), slices.Contains(o.roles, role); got != want {
				t.Errorf("%s in role %d: accepted %v, want %v", name, role, got, want)
			}
		}
		role := o.roles[0]
		for n := range prog {
			if c.accepts(t, role, prog[:n]) {
				t.Errorf("%s: accepted with %d of %d bytes", name, n, len(prog))
			}
		}
		if c.accepts(t, role, append(slices.Clone(prog), make([]byte, 8)...)) {
			t.Errorf("%s: accepted with 8 bytes more", name)
		}
		// The length of the last operation, where it has fields, decides where they end.
		for at := headerSize; at < len(prog); at += 4 {
			for _, delta := range []uint32{1, ^uint32(0), 1 << 31, ^uint32(0) - 8} {
				bad := slices.Clone(prog)
				order.PutUint32(bad[at:], order.Uint32(bad[at:])+delta)
				c.accepts(t, role, bad)
			}
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	c := sanitized(t)
	good := func() []byte {
		b := new(Builder)
		b.FDs()
		b.Mask(os.Stdin, "/x")
		return program(t, b).Bytes()
	}
	if !c.accepts(t, RoleInit, good()) {
		t.Fatal("the good program is refused")
	}
	const fds, mask = headerSize, headerSize + 16 // offsets of the operations
	for name, change := range map[string]func([]byte) []byte{
		"magic":            func(p []byte) []byte { p[0]++; return p },
		"version":          func(p []byte) []byte { p[4]++; return p },
		"operation count":  func(p []byte) []byte { p[8]++; return p },
		"unknown code":     func(p []byte) []byte { order.PutUint32(p[mask:], 7777); return p },
		"code 0":           func(p []byte) []byte { order.PutUint32(p[mask:], 0); return p },
		"index at end":     func(p []byte) []byte { order.PutUint32(p[mask+8:], 1); return p },
		"no descriptor":    func(p []byte) []byte { order.PutUint32(p[mask+8:], noFD); return p },
		"too many":         func(p []byte) []byte { order.PutUint32(p[fds+8:], maxFDs+1); return p },
		"NUL in string":    func(p []byte) []byte { p[mask+16] = 0; return p },
		"string unended":   func(p []byte) []byte { p[mask+18] = 'x'; return p },
		"string too long":  func(p []byte) []byte { order.PutUint32(p[mask+12:], 3); return p },
		"string huge":      func(p []byte) []byte { order.PutUint32(p[mask+12:], ^uint32(0)); return p },
		"operation longer": func(p []byte) []byte { order.PutUint32(p[mask+4:], 12); return p },
		"operation huge":   func(p []byte) []byte { order.PutUint32(p[mask+4:], ^uint32(0)); return p },
		"empty":            func([]byte) []byte { return nil },
		"second table":     func(p []byte) []byte { p[8] = 3; return append(p, p[fds:mask]...) },
	} {
		if c.accepts(t, RoleInit, change(slices.Clone(good()))) {
			t.Errorf("%s: accepted", name)
		}
	}
}

func seeds(t testing.TB) map[Role][]byte {
	t.Helper()
	pl := plan("/root")
	hook, err := Hook(HookInput{Plan: pl, Trees: map[int]*os.File{3: os.Stdin, 4: os.Stdout}})
	if err != nil {
		t.Fatal(err)
	}
	init, err := Init(InitInput{Plan: pl, NullTree: os.Stdin, Seccomp: &Seccomp{Filter: make([]byte, 64)}})
	if err != nil {
		t.Fatal(err)
	}
	exec, err := Exec(ExecInput{Process: &pl.Process, PidFD: os.Stdin, CgroupV1: []*os.File{os.Stdout}})
	if err != nil {
		t.Fatal(err)
	}
	sandbox, err := Sandbox(SandboxInput{Plan: pl, Network: os.Stdin, User: os.Stdout})
	if err != nil {
		t.Fatal(err)
	}
	return map[Role][]byte{RoleHook: hook.Bytes(), RoleInit: init.Bytes(), RoleExec: exec.Bytes(), RoleSandbox: sandbox.Bytes()}
}

// FuzzCheck feeds programs to the reader of pvelxc-init, built with sanitizers: any
// access out of bounds ends the checker, which fails the test.
func FuzzCheck(f *testing.F) {
	c := sanitized(f)
	for role, prog := range seeds(f) {
		if !c.accepts(f, role, prog) {
			f.Fatalf("the program of role %d is refused", role)
		}
		f.Add(uint32(role), prog)
	}
	f.Fuzz(func(t *testing.T, role uint32, prog []byte) {
		c.accepts(t, Role(role%4), prog)
	})
}

func FuzzMessage(f *testing.F) {
	f.Add(newMessage(MsgSync, 1))
	f.Add(append(newMessage(MsgError, 0), "text\xff"...))
	p := &Program{descs: []string{"x"}}
	f.Fuzz(func(t *testing.T, buf []byte) {
		m, err := parseMessage(buf)
		if (err == nil) != (len(buf) >= msgSize && len(buf) <= msgSize+maxText) {
			t.Fatalf("%d bytes: %v", len(buf), err)
		}
		if err == nil && p.Error(m).Error() == "" && (m.Err != 0 || m.Text != "") {
			t.Errorf("no text for %+v", m)
		}
	})
}

// TestValgrind sees what the sanitizers do not: uninitialised memory.
func TestValgrind(t *testing.T) {
	valgrind, err := exec.LookPath("valgrind")
	if err != nil {
		t.Skipf("needs valgrind: %v", err)
	}
	check := compile(t, "check-plain", "-DPVX_CHECK", "-g", "-O1")
	c := newChecker(t, valgrind, "-q", "--error-exitcode=99", "--leak-check=full", check)
	for role, prog := range seeds(t) {
		if !c.accepts(t, role, prog) {
			t.Errorf("role %d: refused", role)
		}
		bad := slices.Clone(prog)
		for i := headerSize; i < len(bad); i += 5 {
			bad[i] ^= 0x41
			c.accepts(t, role, bad)
		}
	}
	needRoot(t)
	// What valgrind of Debian 12 can follow: not openat2, pidfd_open, seccomp.
	b := new(Builder)
	b.FDs()
	b.Sync(1)
	b.Umask(0o22)
	b.Scheduler(oci2lxc.Scheduler{Policy: 3})
	b.Affinity([]int{0})
	b.IOPriority(2<<13 | 4)
	b.StdioOwner(0)
	b.Cwd("/", true)
	b.Ready()
	b.Rlimit(oci2lxc.Rlimit{Resource: 4}, false)
	b.Rlimit(oci2lxc.Rlimit{Resource: 4}, true)
	b.User(oci2lxc.Capabilities{Permitted: 1 << 21, Effective: 1 << 21, Inheritable: 1 << 21, Bounding: 1 << 21, Ambient: 1 << 21}, true, 0, 0, []uint32{1, 2})
	b.Exec([]string{"true"}, []string{"PATH=/none:/bin"})
	plain := compile(t, "init-plain", "-g", "-O1")
	// Its log goes apart: it also tells which system calls it does not know.
	r := start(t, options{}, false, valgrind, []string{"-q", "--error-exitcode=99", "--log-file=" + t.TempDir() + "/log", "--trace-children=no", plain, "exec", "3"})
	if err := r.serve(program(t, b), nil); err != nil {
		t.Errorf("%v\n%s", err, r.out.String())
	}
	if err := r.wait(); err != nil || r.out.Len() > 0 {
		t.Errorf("%v\n%s", err, r.out.String())
	}
}
