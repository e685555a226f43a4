package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/shim/seccomp"
)

var update = flag.Bool("update", false, "write the golden files")

func parse(t *testing.T, text string) *specs.LinuxSeccomp {
	t.Helper()
	var profile specs.LinuxSeccomp
	if err := json.Unmarshal([]byte(text), &profile); err != nil {
		t.Fatal(err)
	}
	return &profile
}

func mustCompile(t *testing.T, profile *specs.LinuxSeccomp) *seccomp.Filter {
	t.Helper()
	filter, err := compile(profile)
	if err != nil {
		t.Fatal(err)
	}
	return filter
}

// probe runs testdata/probe.c, which loads the filter into the kernel.
func probe(t *testing.T, filter *seccomp.Filter, calls ...string) []string {
	t.Helper()
	program, err := buildProbe()
	if err != nil {
		t.Skipf("needs a C compiler for testdata/probe.c: %v", err)
	}
	file := filepath.Join(t.TempDir(), "filter")
	if err := os.WriteFile(file, filter.Program, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, append([]string{file, fmt.Sprint(filter.Flags)}, calls...)...).Output()
	if err != nil {
		t.Fatalf("probe: %v", err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

var buildProbe = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "probe")
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "probe")
	out, err := exec.Command("cc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, "testdata/probe.c").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return program, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if program, err := buildProbe(); err == nil {
		os.RemoveAll(filepath.Dir(program))
	}
	os.Exit(code)
}

func number(t *testing.T, name string) string {
	t.Helper()
	n, err := libseccomp.GetSyscallFromName(name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return fmt.Sprint(int(n))
}

// TestKernel shows what the kernel does under the compiled filters.
func TestKernel(t *testing.T) {
	const rest = `{"names":["mmap","brk"],"action":"SCMP_ACT_ALLOW"}`
	newer := "9999"
	for _, tc := range []struct {
		name, profile string
		call          string // name[,args]
		want          string
	}{
		{"default errno is EPERM", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[` + rest + `,{"names":["openat2"],"action":"SCMP_ACT_ALLOW"}]}`, "getppid", "errno 1"},
		{"default errno is given", `{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":22,"syscalls":[` + rest + `,{"names":["openat2"],"action":"SCMP_ACT_ALLOW"}]}`, "getppid", "errno 22"},
		{"errno of a rule", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}`, "getppid", "errno 95"},
		{"errno 0 of a rule", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chroot"],"action":"SCMP_ACT_ERRNO","errnoRet":0}]}`, "chroot", "ok"},
		{"unknown names are skipped", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["no_such_call","getppid"],"action":"SCMP_ACT_ERRNO"}]}`, "getppid", "errno 1"},
		{"a rule that equals the default", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_ALLOW"},{"names":["getpid"],"action":"SCMP_ACT_ERRNO"}]}`, "getppid", "ok"},
		{"log lets pass", `{"defaultAction":"SCMP_ACT_LOG","flags":["SECCOMP_FILTER_FLAG_LOG"]}`, "getppid", "ok"},
		{"trace without tracer", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_TRACE"}]}`, "getppid", "errno 38"},
		{"trap", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_TRAP"}]}`, "getppid", "signal 31"},
		{"kill", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_KILL"}]}`, "getppid", "signal 31"},
		{"kill thread", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_KILL_THREAD"}]}`, "getppid", "signal 31"},
		{"kill process", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_KILL_PROCESS"}]}`, "getppid", "signal 31"},

		{"argument equal", argProfile(`{"index":1,"value":7,"op":"SCMP_CMP_EQ"}`), "sched_getparam,0,7", "errno 33"},
		{"argument not equal", argProfile(`{"index":1,"value":7,"op":"SCMP_CMP_EQ"}`), "sched_getparam,0,8", "errno 14"},
		{"NE", argProfile(`{"index":1,"value":7,"op":"SCMP_CMP_NE"}`), "sched_getparam,0,8", "errno 33"},
		{"LT", argProfile(`{"index":1,"value":7,"op":"SCMP_CMP_LT"}`), "sched_getparam,0,6", "errno 33"},
		{"LT at the limit", argProfile(`{"index":1,"value":7,"op":"SCMP_CMP_LT"}`), "sched_getparam,0,7", "errno 14"},
		{"LE", argProfile(`{"index":1,"value":7,"op":"SCMP_CMP_LE"}`), "sched_getparam,0,7", "errno 33"},
		{"GT", argProfile(`{"index":1,"value":7,"op":"SCMP_CMP_GT"}`), "sched_getparam,0,7", "errno 14"},
		{"GE", argProfile(`{"index":1,"value":7,"op":"SCMP_CMP_GE"}`), "sched_getparam,0,7", "errno 33"},
		{"64 bit values", argProfile(`{"index":1,"value":4294967303,"op":"SCMP_CMP_EQ"}`), "sched_getparam,0,7", "errno 14"},
		{"masked", argProfile(`{"index":1,"value":240,"valueTwo":16,"op":"SCMP_CMP_MASKED_EQ"}`), "sched_getparam,0,0x1f", "errno 33"},
		{"masked, other", argProfile(`{"index":1,"value":240,"valueTwo":16,"op":"SCMP_CMP_MASKED_EQ"}`), "sched_getparam,0,0x2f", "errno 14"},
		{"two arguments need both", argProfile(`{"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":1,"value":7,"op":"SCMP_CMP_EQ"}`), "sched_getparam,0,7", "errno 33"},
		{"two arguments, one right", argProfile(`{"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":1,"value":7,"op":"SCMP_CMP_EQ"}`), "sched_getparam,0,8", "errno 14"},
		{"one argument twice: either", argProfile(`{"index":1,"value":7,"op":"SCMP_CMP_EQ"},{"index":1,"value":9,"op":"SCMP_CMP_EQ"}`), "sched_getparam,0,9", "errno 33"},
		{"one argument twice: neither", argProfile(`{"index":1,"value":7,"op":"SCMP_CMP_EQ"},{"index":1,"value":9,"op":"SCMP_CMP_EQ"}`), "sched_getparam,0,8", "errno 14"},

		{"newer than the profile", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[` + rest + `]}`, newer, "errno 38"},
		{"newer than the profile, killing", `{"defaultAction":"SCMP_ACT_KILL_PROCESS","syscalls":[` + rest + `]}`, newer, "errno 38"},
		{"older than the profile, not in it", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[` + rest + `,{"names":["openat2"],"action":"SCMP_ACT_ALLOW"}]}`, "pidfd_open", "errno 1"},
		{"newest of the profile", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[` + rest + `,{"names":["pidfd_open"],"action":"SCMP_ACT_ALLOW"}]}`, "pidfd_open,0", "errno 22"},
		{"newer, and the default is given", `{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":22,"syscalls":[` + rest + `]}`, newer, "errno 38"},
		{"newer, with a tracer by default", `{"defaultAction":"SCMP_ACT_TRACE","syscalls":[` + rest + `]}`, newer, "errno 38"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			call := tc.call
			if name, args, _ := strings.Cut(call, ","); name != newer {
				call = number(t, name)
				if args != "" {
					call += "," + args
				}
			}
			if got := probe(t, mustCompile(t, parse(t, tc.profile)), call); got[0] != tc.want {
				t.Errorf("%s: %q, want %q", tc.call, got[0], tc.want)
			}
		})
	}
}

// argProfile refuses sched_getparam with EDOM under conditions; the kernel itself
// answers EFAULT.
func argProfile(args string) string {
	return `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["sched_getparam"],"action":"SCMP_ACT_ERRNO","errnoRet":33,"args":[` + args + `]}]}`
}

func TestFlagsAndListener(t *testing.T) {
	for _, tc := range []struct {
		name, profile string
		flags         uint32
		notify        bool
		want          string
	}{
		{"none", `{"defaultAction":"SCMP_ACT_ALLOW","flags":[]}`, 0, false, "loaded 0"},
		{"all", `{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}`,
			unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, false, "loaded 0"},
		{"wait killable without a listener", `{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}`, 0, false, "loaded 0"},
		{"listener", `{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],"syscalls":[{"names":["getppid"],"action":"SCMP_ACT_NOTIFY"}]}`,
			unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | filterFlagWaitKillableRecv, true, "loaded 4"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			filter := mustCompile(t, parse(t, tc.profile))
			if filter.Flags != tc.flags || filter.Notify != tc.notify {
				t.Errorf("flags %#x, notify %v, want %#x, %v", filter.Flags, filter.Notify, tc.flags, tc.notify)
			}
			if got := probe(t, filter, "none"); got[0] != tc.want {
				t.Errorf("%q, want %q", got[0], tc.want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, tc := range []struct{ name, profile, want string }{
		{"default action", `{"defaultAction":"SCMP_ACT_MAYBE"}`, `defaultAction: unknown action "SCMP_ACT_MAYBE"`},
		{"notify as default", `{"defaultAction":"SCMP_ACT_NOTIFY"}`, "cannot be the default"},
		{"notify for write", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["write"],"action":"SCMP_ACT_NOTIFY"}]}`, "syscalls[0]: write cannot be notified"},
		{"rule's action", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":""}]}`, `syscalls[0]: unknown action ""`},
		{"architecture", `{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_VAX"]}`, `unknown architecture "SCMP_ARCH_VAX"`},
		{"operator", argProfile(`{"index":1,"op":"SCMP_CMP_LIKE"}`), `args[0]: unknown operator "SCMP_CMP_LIKE"`},
		{"index", argProfile(`{"index":6,"op":"SCMP_CMP_EQ"}`), "args[0]"},
		{"flag", `{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}`, `unknown flag "SECCOMP_FILTER_FLAG_NEW_LISTENER"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := compile(parse(t, tc.profile)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

// TestDefaultProfile decides all system calls of the profile that containers get
// from containerd, for each of its architectures.
func TestDefaultProfile(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skipf("needs amd64: the golden file has its numbers, this is %s", runtime.GOARCH)
	}
	text, err := os.ReadFile("testdata/default-profile.json")
	if err != nil {
		t.Fatal(err)
	}
	filter := mustCompile(t, parse(t, string(text)))
	if got := probe(t, filter, "none"); got[0] != "loaded 0" {
		t.Errorf("the kernel does not take it: %s", got[0])
	}
	var table strings.Builder
	for _, arch := range []struct {
		name        string
		audit       uint32
		scmp        libseccomp.ScmpArch
		first, last uint32
	}{
		// The last numbers are those that every supported libseccomp (2.5.4) knows.
		{"x86_64", unix.AUDIT_ARCH_X86_64, libseccomp.ArchAMD64, 0, 448},
		{"x86", unix.AUDIT_ARCH_I386, libseccomp.ArchX86, 0, 448},
		{"x32", unix.AUDIT_ARCH_X86_64, libseccomp.ArchX32, x32Bit, x32Bit + 448},
		{"arm64", unix.AUDIT_ARCH_AARCH64, libseccomp.ArchARM64, 0, 3},
	} {
		for n := arch.first; n <= arch.last; n++ {
			name, err := libseccomp.ScmpSyscall(n).GetNameByArch(arch.scmp)
			if err != nil {
				name = "-"
			}
			action := evaluate(t, filter.Program, n, arch.audit)
			fmt.Fprintf(&table, "%s %d %s: %s\n", arch.name, n, name, describe(action))
		}
	}
	golden := "testdata/default-profile.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(table.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(table.String(), "\n")); diff != "" {
		t.Errorf("decisions (-want +got):\n%s", diff)
	}
}

func describe(action uint32) string {
	switch action & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW:
		return "allow"
	case unix.SECCOMP_RET_ERRNO:
		return fmt.Sprintf("errno %d", action&unix.SECCOMP_RET_DATA)
	case unix.SECCOMP_RET_KILL_THREAD:
		return "kill"
	}
	return fmt.Sprintf("%#x", action)
}

// evaluate runs a program as the kernel does, with all arguments 0.
func evaluate(t *testing.T, program []byte, number, arch uint32) uint32 {
	t.Helper()
	data := make([]byte, 64) // struct seccomp_data
	binary.NativeEndian.PutUint32(data[offsetNumber:], number)
	binary.NativeEndian.PutUint32(data[offsetArch:], arch)
	var a uint32
	for pc := 0; ; pc++ {
		var ins instruction
		if _, err := binary.Decode(program[pc*8:], binary.NativeEndian, &ins.code); err != nil {
			t.Fatal(err)
		}
		ins.jt, ins.jf = program[pc*8+2], program[pc*8+3]
		ins.k = binary.NativeEndian.Uint32(program[pc*8+4:])
		branch := func(yes bool) {
			if yes {
				pc += int(ins.jt)
			} else {
				pc += int(ins.jf)
			}
		}
		switch ins.code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = binary.NativeEndian.Uint32(data[ins.k:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= ins.k
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(ins.k)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			branch(a == ins.k)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			branch(a > ins.k)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			branch(a >= ins.k)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			branch(a&ins.k != 0)
		case unix.BPF_RET | unix.BPF_K:
			return ins.k
		default:
			t.Fatalf("instruction %d has code %#x", pc, ins.code)
		}
	}
}

// TestStub checks the stub of architectures that this machine is not.
func TestStub(t *testing.T) {
	profile := parse(t, `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read","statx"],"action":"SCMP_ACT_ALLOW"}]}`)
	archs := []libseccomp.ScmpArch{libseccomp.ArchARM64, libseccomp.ArchS390X, libseccomp.ArchPPC64LE, libseccomp.ArchX32}
	stub, err := enosysStub(profile, archs)
	if err != nil {
		t.Fatal(err)
	}
	const passed = 0x1234
	stub = instruction{code: unix.BPF_RET | unix.BPF_K, k: passed}.append(stub)
	const enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	for _, tc := range []struct {
		name          string
		arch          libseccomp.ScmpArch
		number        int64 // relative to statx if not negative
		absolute      uint32
		want          uint32
		auditOverride uint32
	}{
		{name: "arm64 statx", arch: libseccomp.ArchARM64, want: passed},
		{name: "arm64 next", arch: libseccomp.ArchARM64, number: 1, want: enosys},
		{name: "s390x statx", arch: libseccomp.ArchS390X, want: passed},
		{name: "s390x next", arch: libseccomp.ArchS390X, number: 1, want: enosys},
		{name: "s390x setup", arch: libseccomp.ArchS390X, number: -1, absolute: 0, want: enosys},
		{name: "ppc64le next", arch: libseccomp.ArchPPC64LE, number: 1, want: enosys},
		{name: "x32 statx", arch: libseccomp.ArchX32, want: passed},
		{name: "x32 next", arch: libseccomp.ArchX32, number: 1, want: enosys},
		{name: "x86_64, not listed", arch: libseccomp.ArchX32, number: -1, absolute: 9999, want: passed},
		{name: "no architecture", arch: libseccomp.ArchARM64, number: 1, auditOverride: 0xdead, want: passed},
	} {
		n := tc.absolute
		if tc.number >= 0 {
			statx, err := libseccomp.GetSyscallFromNameByArch("statx", tc.arch)
			if err != nil {
				t.Fatal(err)
			}
			n = uint32(int64(statx) + tc.number)
		}
		audit := auditArchs[tc.arch]
		if tc.auditOverride != 0 {
			audit = tc.auditOverride
		}
		if got := evaluate(t, stub, n, audit); got != tc.want {
			t.Errorf("%s (%d): %#x, want %#x", tc.name, n, got, tc.want)
		}
	}
}

// TestNoStub: a profile that permits by default permits new calls, and one that
// answers ENOSYS needs nothing more. The kernel's own ENOSYS would hide a mistake.
func TestNoStub(t *testing.T) {
	native, err := libseccomp.GetNativeArch()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		fields string
		want   uint32
	}{
		{`"defaultAction":"SCMP_ACT_ALLOW"`, unix.SECCOMP_RET_ALLOW},
		{`"defaultAction":"SCMP_ACT_LOG"`, unix.SECCOMP_RET_LOG},
		{`"defaultAction":"SCMP_ACT_TRACE","defaultErrnoRet":7`, unix.SECCOMP_RET_TRACE | 7},
		{`"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38`, unix.SECCOMP_RET_ERRNO | 38},
		{`"defaultAction":"SCMP_ACT_TRAP"`, unix.SECCOMP_RET_ERRNO | 38},
	} {
		profile := parse(t, `{`+tc.fields+`,"syscalls":[{"names":["brk"],"action":"SCMP_ACT_KILL"}]}`)
		if got := evaluate(t, mustCompile(t, profile).Program, 9999, auditArchs[native]); got != tc.want {
			t.Errorf("%s: %#x for a new call, want %#x", tc.fields, got, tc.want)
		}
		if stub, err := enosysStub(profile, []libseccomp.ScmpArch{native}); err != nil || (len(stub) > 0) != (profile.DefaultAction == specs.ActTrap) {
			t.Errorf("%s: a stub of %d bytes, %v", tc.fields, len(stub), err)
		}
	}
}

func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := run(strings.NewReader(`{"defaultAction":"SCMP_ACT_ALLOW"}`), &out); err != nil {
		t.Fatal(err)
	}
	if _, err := seccomp.Decode(out.Bytes()); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "{", `{"defaultAction":1}`, strings.Repeat(" ", maxProfile+1)} {
		if err := run(strings.NewReader(bad), &out); err == nil {
			t.Errorf("took %.20q", bad)
		}
	}
}
