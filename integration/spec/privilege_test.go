package spec

import (
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// Masks of capability sets as /proc shows them.
const (
	none           = "0000000000000000"
	chown          = "0000000000000001"
	chownKill      = "0000000000000021"
	chownKillAdmin = "0000000000200021"
)

// privileges are the fields of /proc/self/status that tell what a process may do.
func privileges(t *testing.T, e *harness.Env, opts ...harness.Option) map[string]string {
	t.Helper()
	got := e.Run(t, append(opts, harness.Args("cat", "/proc/self/status"))...)
	all := harness.ParseStatus(got.Stdout)
	fields := make(map[string]string)
	for _, key := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"} {
		fields[key] = all[key]
	}
	return fields
}

func TestCapabilities(t *testing.T) {
	chownOnly, two := []string{"CAP_CHOWN"}, []string{"CAP_CHOWN", "CAP_KILL"}
	three := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"}
	for _, test := range []struct {
		name string
		uid  uint32
		caps *specs.LinuxCapabilities
		want map[string]string
	}{
		{"none", 0, &specs.LinuxCapabilities{}, map[string]string{"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none}},
		{
			"root", 0,
			&specs.LinuxCapabilities{Bounding: three, Permitted: three, Effective: three, Inheritable: chownOnly},
			map[string]string{"CapInh": chown, "CapPrm": chownKillAdmin, "CapEff": chownKillAdmin, "CapBnd": chownKillAdmin, "CapAmb": none},
		},
		{
			"user", 1000,
			&specs.LinuxCapabilities{Bounding: two, Permitted: two, Effective: two},
			map[string]string{"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": chownKill, "CapAmb": none},
		},
		{
			"ambient", 1000,
			&specs.LinuxCapabilities{Bounding: three, Permitted: two, Effective: two, Inheritable: two, Ambient: chownOnly},
			map[string]string{"CapInh": chownKill, "CapPrm": chown, "CapEff": chown, "CapBnd": chownKillAdmin, "CapAmb": chown},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			harness.Each(t, func(t *testing.T, e *harness.Env) {
				got := privileges(t, e, harness.Edit(func(s *specs.Spec) {
					s.Process.Capabilities = test.caps
					s.Process.User = specs.User{UID: test.uid, GID: test.uid}
				}))
				delete(got, "NoNewPrivs")
				delete(got, "Seccomp")
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestNoNewPrivileges(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		for want, set := range map[string]oci.SpecOpts{"1": oci.WithNoNewPrivileges, "0": oci.WithNewPrivileges} {
			if got := privileges(t, e, harness.Spec(set))["NoNewPrivs"]; got != want {
				t.Errorf("NoNewPrivs %s, want %s", got, want)
			}
		}
	})
}

// filter allows everything but what rules say.
func filter(rules ...specs.LinuxSyscall) harness.Option {
	return harness.Edit(func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
			Syscalls:      rules,
		}
	})
}

func TestSeccomp(t *testing.T) {
	enoent := uint(2)
	for name, set := range map[string]oci.SpecOpts{"no_new_privs": oci.WithNoNewPrivileges, "privileges": oci.WithNewPrivileges} {
		t.Run(name, func(t *testing.T) {
			harness.Each(t, func(t *testing.T, e *harness.Env) {
				deny := filter(specs.LinuxSyscall{Names: []string{"mkdir", "mkdirat", "no_such_syscall"}, Action: specs.ActErrno})
				prints(t, e, lines("mkdir: can't create directory '/tmp/x': Operation not permitted", "after"),
					"mkdir /tmp/x 2>&1; echo after", deny, harness.Spec(set))
				errno := filter(specs.LinuxSyscall{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: &enoent})
				prints(t, e, lines("mkdir: can't create directory '/tmp/x': No such file or directory"),
					"mkdir /tmp/x 2>&1; true", errno, harness.Spec(set))
				if got := privileges(t, e, deny, harness.Spec(set))["Seccomp"]; got != "2" {
					t.Errorf("Seccomp mode %s, want 2", got)
				}
			})
		})
	}
}

// Arguments narrow a rule: only this signal number is refused.
func TestSeccompArguments(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("refused", "sent"), "kill -USR1 $$ 2>/dev/null || echo refused; kill -0 $$ && echo sent", filter(specs.LinuxSyscall{
			Names: []string{"kill"}, Action: specs.ActErrno,
			Args: []specs.LinuxSeccompArg{{Index: 1, Value: 10, Op: specs.OpEqualTo}},
		}))
	})
}

func TestSeccompKill(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		got := e.Run(t, harness.Shell("mkdir /tmp/x; echo $?"), filter(specs.LinuxSyscall{Names: []string{"mkdir"}, Action: specs.ActKillProcess}))
		if got.Stdout != "159\n" { // 128 + SIGSYS
			t.Errorf("got %+v", got)
		}
	})
}

// An exec is filtered as the container is.
func TestSeccompExec(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever(), filter(specs.LinuxSyscall{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}))
		if got := c.Exec(t, []string{"mkdir", "/tmp/x"}); got.Status == 0 {
			t.Error("the exec made a directory")
		}
	})
}

func TestSeccompInvalid(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		refused(t, e, []string{"seccomp", "action"}, filter(specs.LinuxSyscall{Names: []string{"mkdir"}, Action: "SCMP_ACT_NONSENSE"}))
	})
}
