package program

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// allCaps are those that the test's process has.
func allCaps(t *testing.T) uint64 {
	t.Helper()
	var c uint64
	for n := range 64 {
		if v, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0); err == nil && v == 1 {
			c |= 1 << n
		}
	}
	return c
}

func TestUserAndCapabilities(t *testing.T) {
	status := "grep -E '^(Uid|Gid|Groups|Cap...):' /proc/self/status"
	chown, kill := uint64(1)<<unix.CAP_CHOWN, uint64(1)<<unix.CAP_KILL
	for name, c := range map[string]struct {
		caps     oci2lxc.Capabilities
		keep     bool
		uid, gid uint32
		groups   []uint32
		want     [5]uint64 // inheritable permitted effective bounding ambient, after exec
	}{
		"root without":              {want: [5]uint64{}},
		"root with some":            {caps: oci2lxc.Capabilities{Bounding: chown | kill, Effective: chown, Permitted: chown | kill, Inheritable: kill}, want: [5]uint64{kill, chown | kill, chown | kill, chown | kill, 0}},
		"user, bounding alone":      {caps: oci2lxc.Capabilities{Bounding: chown, Effective: chown, Permitted: chown}, uid: 1000, gid: 1001, want: [5]uint64{0, 0, 0, chown, 0}},
		"user, ambient":             {caps: oci2lxc.Capabilities{Bounding: chown | kill, Effective: kill, Permitted: kill, Inheritable: kill, Ambient: kill}, uid: 1000, gid: 1001, groups: []uint32{7, 4000000000}, want: [5]uint64{kill, kill, kill, chown | kill, kill}},
		"ambient not granted":       {caps: oci2lxc.Capabilities{Bounding: chown, Permitted: chown, Ambient: chown}, uid: 5, gid: 5, want: [5]uint64{0, 0, 0, chown, 0}},
		"kept admin dropped":        {caps: oci2lxc.Capabilities{Bounding: kill, Effective: kill, Permitted: kill, Inheritable: kill, Ambient: kill}, keep: true, uid: 5, gid: 5, want: [5]uint64{kill, kill, kill, kill, kill}},
		"kept admin, root":          {caps: oci2lxc.Capabilities{Bounding: kill, Effective: kill, Permitted: kill}, keep: true, want: [5]uint64{0, kill, kill, kill, 0}},
		"inheritable, not bounding": {caps: oci2lxc.Capabilities{Bounding: kill, Permitted: chown | kill, Inheritable: chown | kill}, uid: 5, gid: 5, want: [5]uint64{kill, 0, 0, kill, 0}},
		"unknown capability":        {caps: oci2lxc.Capabilities{Bounding: kill | 1<<62, Effective: kill | 1<<62, Permitted: kill | 1<<62, Inheritable: 1 << 62}, want: [5]uint64{0, kill, kill, kill, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			got := output(t, options{}, newRoot(t), status, func(b *Builder) {
				b.User(c.caps, c.keep, c.uid, c.gid, c.groups)
			})
			groups := ""
			for _, g := range c.groups {
				groups += fmt.Sprint(g, " ")
			}
			want := fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d\nGid:\t%d\t%[2]d\t%[2]d\t%[2]d\nGroups:\t%s", c.uid, c.gid, groups)
			for i, set := range []string{"Inh", "Prm", "Eff", "Bnd", "Amb"} {
				want += fmt.Sprintf("\nCap%s:\t%016x", set, c.want[i])
			}
			if strings.ReplaceAll(got, " \n", "\n") != strings.ReplaceAll(want, " \n", "\n") {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
	if err := initError(t, options{userns: true}, newRoot(t), func(b *Builder) { b.User(oci2lxc.Capabilities{}, false, 70000, 0, nil) }); !errors.Is(err, unix.EINVAL) || err.Text != "setuid 70000" {
		t.Errorf("unmapped uid: got %v, want EINVAL", err)
	}
	if err := initError(t, options{}, newRoot(t), func(b *Builder) {
		b.User(oci2lxc.Capabilities{Bounding: allCaps(t)}, false, 5, 5, nil)
		b.User(oci2lxc.Capabilities{}, false, 0, 0, nil)
	}); !errors.Is(err, unix.EPERM) {
		t.Errorf("twice: got %v, want EPERM", err)
	}
}

func TestSetgroupsDenied(t *testing.T) {
	o := options{userns: true, noSetgroups: true}
	for _, groups := range [][]uint32{nil, {7}} {
		if got := output(t, o, newRoot(t), "id -u", func(b *Builder) { b.User(oci2lxc.Capabilities{}, false, 5, 5, groups) }); got != "5" {
			t.Errorf("uid is %q, want 5", got)
		}
	}
	err := initError(t, options{userns: true}, newRoot(t), func(b *Builder) { b.User(oci2lxc.Capabilities{}, false, 5, 5, []uint32{70000}) })
	if !errors.Is(err, unix.EINVAL) || err.Text != "setgroups" {
		t.Errorf("unmapped group: got %v, want EINVAL", err)
	}
}

// filter is a program that lets all calls pass but one, which fails with EXDEV.
func filter(t *testing.T, nr int) []byte {
	t.Helper()
	insns := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(nr)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EXDEV)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&insns[0])), len(insns)*8)...)
}

func TestSeccomp(t *testing.T) {
	script := "grep -E '^(Seccomp|NoNewPrivs|CapEff):' /proc/self/status; hostname x 2>&1; true"
	for _, nnp := range []bool{false, true} {
		got := output(t, options{}, newRoot(t), script, func(b *Builder) {
			if nnp {
				b.NoNewPrivileges()
			}
			b.User(oci2lxc.Capabilities{}, !nnp, 0, 0, nil)
			b.LoadSeccomp(Seccomp{Filter: filter(t, unix.SYS_SETHOSTNAME)})
		})
		want := fmt.Sprintf("CapEff:\t0000000000000000\nNoNewPrivs:\t%d\nSeccomp:\t2\nhostname: sethostname: Invalid cross-device link", map[bool]int{true: 1}[nnp])
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	drop := func(b *Builder) { b.User(oci2lxc.Capabilities{}, false, 0, 0, nil) }
	for name, c := range map[string]struct {
		setup func(*Builder)
		errno syscall.Errno
	}{
		"no right":     {func(b *Builder) { drop(b); b.LoadSeccomp(Seccomp{Filter: filter(t, 1)}) }, unix.EACCES},
		"odd size":     {func(b *Builder) { b.LoadSeccomp(Seccomp{Filter: filter(t, 1)[:31]}) }, unix.EINVAL},
		"empty":        {func(b *Builder) { b.LoadSeccomp(Seccomp{}) }, unix.EINVAL},
		"unknown flag": {func(b *Builder) { b.LoadSeccomp(Seccomp{Flags: 1 << 30, Filter: filter(t, 1)}) }, unix.EINVAL},
	} {
		if err := initError(t, options{}, newRoot(t), c.setup); !errors.Is(err, c.errno) {
			t.Errorf("%s: got %v, want %v", name, err, c.errno)
		}
	}
}

func TestSeccompListener(t *testing.T) {
	root := newRoot(t)
	r := startInit(t, options{}, root)
	b := new(Builder)
	b.Ready()
	b.LoadSeccomp(Seccomp{Flags: unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, Filter: filter(t, unix.SYS_SETHOSTNAME)})
	b.Exec([]string{"/bin/true"}, nil)
	fds := map[FDKind]*os.File{}
	if err := r.serve(program(t, b), fds); err != nil {
		t.Fatal(err)
	}
	f := fds[FDSeccomp]
	if f == nil {
		t.Fatal("no listener came")
	}
	if name, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd())); name != "anon_inode:seccomp notify" {
		t.Errorf("the descriptor is %q", name)
	}
}

func TestProcessAttributes(t *testing.T) {
	umask, persona, prio := uint32(0o027), uint32(0x0008), 2<<13|5
	for name, c := range map[string]struct {
		script string
		setup  func(*Builder)
		want   string
	}{
		"umask":       {"umask", func(b *Builder) { b.Umask(umask) }, "0027"},
		"personality": {"cat /proc/self/personality", func(b *Builder) { b.Personality(persona) }, "00000008"},
		"rlimit": {"grep -E 'open files|core' /proc/self/limits | awk '{print $(NF-2), $(NF-1)}'", func(b *Builder) {
			b.Rlimit(oci2lxc.Rlimit{Resource: unix.RLIMIT_NOFILE, Soft: 20, Hard: 30}, false)
			b.Rlimit(oci2lxc.Rlimit{Resource: unix.RLIMIT_CORE}, false)
		}, "0 0\n20 30"},
		"low rlimit": {"grep -E 'open files' /proc/self/limits | awk '{print $4, $5}'", func(b *Builder) {
			b.Rlimit(oci2lxc.Rlimit{Resource: unix.RLIMIT_NOFILE, Soft: 10, Hard: 30}, false)
			b.Rlimit(oci2lxc.Rlimit{Resource: unix.RLIMIT_NOFILE, Soft: 5, Hard: 29}, true)
		}, "10 30"},
		"batch":     {"grep -E '^policy' /proc/self/sched | awk '{print $3}'", func(b *Builder) { b.Scheduler(oci2lxc.Scheduler{Policy: 3, Nice: 4}) }, "3"},
		"nice":      {"cut -d' ' -f19 /proc/self/stat", func(b *Builder) { b.Scheduler(oci2lxc.Scheduler{Policy: 0, Nice: 7}) }, "7"},
		"affinity":  {"grep Cpus_allowed_list /proc/self/status", func(b *Builder) { b.Affinity([]int{0}) }, "Cpus_allowed_list:\t0"},
		"mempolicy": {"cut -d' ' -f2 /proc/self/numa_maps | cat | sort -u 2>/dev/null || cut -d' ' -f2 /proc/self/numa_maps", func(b *Builder) { b.MemoryPolicy(oci2lxc.MemoryPolicy{Mode: 2, Nodes: []int{0}}) }, "bind:0"},
		"nnp":       {"grep NoNewPrivs /proc/self/status", func(b *Builder) { b.NoNewPrivileges() }, "NoNewPrivs:\t1"},
		"keyring":   {"cat /proc/keys | awk '/ pvx-test: /{print $5}'", func(b *Builder) { b.Keyring("pvx-test") }, "3f1b0000"},
		"ioprio":    {"ionice", func(b *Builder) { b.IOPriority(prio) }, "best-effort: prio 5"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "mempolicy" {
				if _, err := os.Stat("/proc/self/numa_maps"); err != nil {
					t.Skipf("needs a kernel with CONFIG_NUMA: %v", err)
				}
			}
			if name == "keyring" {
				if _, err := os.Stat("/proc/keys"); err != nil {
					t.Skipf("needs a kernel with CONFIG_KEYS: %v", err)
				}
			}
			if got := output(t, options{}, newRoot(t), c.script, c.setup); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestProcessAttributeErrors(t *testing.T) {
	for name, c := range map[string]struct {
		setup func(*Builder)
		errno syscall.Errno
	}{
		"rlimit soft above hard": {func(b *Builder) { b.Rlimit(oci2lxc.Rlimit{Resource: unix.RLIMIT_CORE, Soft: 2, Hard: 1}, false) }, unix.EINVAL},
		"rlimit unknown":         {func(b *Builder) { b.Rlimit(oci2lxc.Rlimit{Resource: 99}, true) }, unix.EINVAL},
		"sched unknown":          {func(b *Builder) { b.Scheduler(oci2lxc.Scheduler{Policy: 99}) }, unix.EINVAL},
		"ioprio unknown":         {func(b *Builder) { b.IOPriority(7 << 13) }, unix.EINVAL},
		"cpu not there":          {func(b *Builder) { b.Affinity([]int{8191}) }, unix.EINVAL},
		"cpu too large":          {func(b *Builder) { b.Affinity([]int{8192}) }, unix.EINVAL},
		"node too large":         {func(b *Builder) { b.MemoryPolicy(oci2lxc.MemoryPolicy{Mode: 2, Nodes: []int{64 * 64}}) }, unix.EINVAL},
		"signal":                 {func(b *Builder) { b.Signals(99) }, unix.EINVAL},
		"no apparmor":            {func(b *Builder) { b.LSM(LSMAppArmor, "none-such") }, unix.EINVAL},
		"no selinux":             {func(b *Builder) { b.LSM(LSMSELinux, "none-such") }, unix.EINVAL},
		"label too long":         {func(b *Builder) { b.LSM(LSMAppArmor, strings.Repeat("x", 5000)) }, unix.ENAMETOOLONG},
		"personality":            {func(b *Builder) { b.Keyring(strings.Repeat("x", 5000)) }, unix.EINVAL},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasPrefix(name, "no ") {
				if lsm, err := os.ReadFile("/sys/kernel/security/lsm"); err == nil && strings.Contains(string(lsm), name[3:]) {
					t.Skipf("needs a kernel without it: %s", lsm)
				}
			}
			err := initError(t, options{}, newRoot(t), c.setup)
			if strings.HasPrefix(name, "no ") && errors.Is(err, unix.ENOENT) {
				return
			}
			if !errors.Is(err, c.errno) {
				t.Errorf("got %v, want %v", err, c.errno)
			}
		})
	}
}

func TestSignals(t *testing.T) {
	// The stage ignores SIGHUP and SIGUSR1, as a monitor might.
	const ignored = 1<<(unix.SIGHUP-1) | 1<<(unix.SIGUSR1-1)
	for _, reset := range []bool{false, true} {
		var got uint64
		_, err := fmt.Sscanf(output(t, options{}, newRoot(t), "grep SigIgn /proc/self/status", func(b *Builder) {
			if reset {
				b.Signals(uint32(unix.SIGKILL))
			}
		}), "SigIgn:\t%x", &got)
		want := uint64(ignored)
		if reset {
			want = 0
		}
		if err != nil || got&ignored != want {
			t.Errorf("reset %v: ignored signals are %#x, %v", reset, got, err)
		}
	}
}

func TestStdioOwner(t *testing.T) {
	got := output(t, options{}, newRoot(t), "stat -L -c %u /proc/self/fd/1; stat -L -c '%t:%T %u' /proc/self/fd/0", func(b *Builder) { b.StdioOwner(1234) })
	if got != "1234\n1:3 0" {
		t.Errorf("got %q, want the pipe's owner changed and /dev/null's kept", got)
	}
}

// TestOwnNull: a null device that was opened on the host is exchanged for the container's.
func TestOwnNull(t *testing.T) {
	const script = `[ "$(stat -L -c %d /proc/self/fd/0)" = "$(stat -c %d /dev/null)" ] && echo own || echo the host\'s`
	withNull := newRoot(t)
	if err := os.MkdirAll(withNull+"/dev", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(withNull+"/dev/null", unix.S_IFCHR|0o666, 1<<8|3); err != nil && !errors.Is(err, unix.EEXIST) {
		t.Fatal(err)
	}
	owner := func(b *Builder) { b.StdioOwner(0) }
	if got := output(t, options{}, withNull, script, owner); got != "own" {
		t.Errorf("it is %q", got)
	}
	// What has the name and is no null device is not taken for it.
	fake := newRoot(t)
	_ = os.Remove(fake + "/dev/null")
	writeFile(t, fake+"/dev/null", "", 0o666)
	if got := output(t, options{}, fake, "stat -L -c %t:%T /proc/self/fd/0", owner); got != "1:3" {
		t.Errorf("stdin is device %s", got)
	}
}

func TestHome(t *testing.T) {
	for name, c := range map[string]struct {
		passwd string
		uid    uint32
		want   string
	}{
		"found":      {"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/srv/web:/bin/sh\n", 1000, "/srv/web"},
		"last line":  {"web:x:1000:1000::/srv/web", 1000, "/srv/web"},
		"first wins": {"a:x:7:7::/a:\nb:x:7:7::/b:\n", 7, "/a"},
		"not found":  {"root:x:0:0:root:/root:/bin/sh\n", 1000, "/"},
		"prefix":     {"a:x:10001:7::/a:\nb:x:100:7::/b:\n", 1000, "/"},
		"no home":    {"a:x:1000\n", 1000, "/"},
		"empty home": {"a:x:1000:1:::\n", 1000, "/"},
		"long lines": {strings.Repeat("x", 20000) + ":x:1000:1::/no:\n" + strings.Repeat("y:x:5:5::/y:\n", 2000) + "a:x:1000:1::/a:\n", 1000, "/a"},
		"long home":  {"a:x:1000:1::/" + strings.Repeat("h", 5000) + ":\n", 1000, "/"},
		"no file":    {"", 1000, "/"},
	} {
		t.Run(name, func(t *testing.T) {
			root := newRoot(t)
			if c.passwd != "" {
				writeFile(t, root+"/etc/passwd", c.passwd, 0o644)
			}
			if got := output(t, options{}, root, "echo $HOME", func(b *Builder) { b.Home(c.uid) }); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	for _, mode := range []uint32{unix.S_IFIFO, unix.S_IFCHR, unix.S_IFDIR} {
		root := newRoot(t)
		err := unix.Mknod(root+"/etc/passwd", mode|0o644, 1<<8|5) // the device is zero: without an end
		if mode == unix.S_IFDIR {
			err = os.Mkdir(root+"/etc/passwd", 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := output(t, options{}, root, "echo $HOME", func(b *Builder) { b.Home(0) }); got != "/" {
			t.Errorf("file of type %#o: got %q", mode, got)
		}
	}
}

func TestCwd(t *testing.T) {
	root := newRoot(t)
	mkdir(t, root+"/private")
	if err := os.Chmod(root+"/private", 0o700); err != nil {
		t.Fatal(err)
	}
	got := output(t, options{}, root, "pwd", func(b *Builder) {
		b.Mkdir("/new/dir", 0o755)
		b.Cwd("/new/dir", true)
		b.Cwd("/nowhere", false) // nothing left to do
	})
	if got != "/new/dir" {
		t.Errorf("got %q", got)
	}
	for name, c := range map[string]struct {
		setup func(*Builder)
		errno syscall.Errno
	}{
		"missing": {func(b *Builder) { b.Cwd("/missing", true) }, unix.ENOENT},
		"no permission": {func(b *Builder) {
			b.User(oci2lxc.Capabilities{}, false, 9, 9, nil)
			b.Cwd("/private", true)
			b.Cwd("/private", false)
		}, unix.EACCES},
		// A descriptor of the host that leaked (CVE-2024-21626).
		"outside": {func(b *Builder) { b.Cwd("/proc/self/fd/0", false) }, unix.EPERM},
	} {
		o := options{}
		if name == "outside" {
			dir, err := os.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			o.stdin = dir
		}
		if err := initError(t, o, root, c.setup); !errors.Is(err, c.errno) {
			t.Errorf("%s: got %v, want %v", name, err, c.errno)
		}
	}
}
