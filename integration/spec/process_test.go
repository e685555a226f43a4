package spec

import (
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestUser(t *testing.T) {
	umask := uint32(0o27)
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines(0, 0, "0022"), "id -u; id -g; umask")
		prints(t, e, lines(1000, 1001, "1001 2000 2001", "0027"), "id -u; id -g; id -G; umask", harness.Edit(func(s *specs.Spec) {
			s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{2000, 2001}, Umask: &umask}
		}))
		prints(t, e, lines(1000, "/home/app"), "id -u; echo $HOME", harness.Spec(oci.WithUser("app")))
		prints(t, e, lines(65532), "id -u", harness.Spec(oci.WithUIDGID(65532, 65532)))
	})
}

func TestEnvironment(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		got := e.Run(t, harness.Args("env"), harness.Edit(func(s *specs.Spec) {
			s.Process.Env = []string{"PATH=/bin", "EMPTY=", "SPACES= a  b ", "QUOTES='\"", "LINES=a\nb", "HOME=/tmp"}
		}))
		want := "PATH=/bin\nEMPTY=\nSPACES= a  b \nQUOTES='\"\nLINES=a\nb\nHOME=/tmp\n"
		if diff := cmp.Diff(want, got.Stdout); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestArguments(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		args := []string{"printf", "<%s>", "", " a  b ", "'\"", "$HOME", "a\nb", "\\", "*", strings.Repeat("x", 100_000)}
		got := e.Run(t, harness.Args(args...))
		want := "<" + strings.Join(args[2:], "><") + ">"
		if got.Stdout != want {
			t.Errorf("%d bytes of output, want %d: %.200q", len(got.Stdout), len(want), got.Stdout)
		}
	})
}

func TestWorkingDirectory(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("/tmp"), "pwd", harness.Spec(oci.WithProcessCwd("/tmp")))
		prints(t, e, lines("/made/for/it"), "pwd", harness.Spec(oci.WithProcessCwd("/made/for/it")))
		refused(t, e, []string{"not a directory", "cwd"}, harness.Spec(oci.WithProcessCwd("/etc/passwd")))
	})
}

func TestHostname(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("box.example", "example.org"), "hostname; cat /proc/sys/kernel/domainname",
			harness.Spec(oci.WithHostname("box.example"), oci.WithDomainname("example.org")))
	})
}

// Without a UTS namespace of its own a container must not rename the host, and its host name stays.
// The census of every test compares the host's name.
func TestHostnameOfHost(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		host := harness.Spec(oci.WithHostNamespace(specs.UTSNamespace))
		if got := e.Run(t, host, harness.Args("hostname")); got.Status != 0 {
			t.Errorf("got %+v", got)
		}
		refused(t, e, []string{"hostname", "uts"}, host, harness.Spec(oci.WithHostname("evil")))
	})
}

func TestRlimits(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("100 200", "3 4"), "awk '/^Max open files/ { print $4, $5 } /^Max core/ { print $5, $6 }' /proc/self/limits | sort -n -r",
			harness.Edit(func(s *specs.Spec) {
				s.Process.Rlimits = []specs.POSIXRlimit{
					{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200},
					{Type: "RLIMIT_CORE", Soft: 3, Hard: 4},
				}
			}))
		refused(t, e, []string{"rlimit"}, harness.Edit(func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NONSENSE", Soft: 1, Hard: 1}}
		}))
	})
}

func TestOOMScore(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		score := 321
		prints(t, e, lines(score), "cat /proc/self/oom_score_adj", harness.Edit(func(s *specs.Spec) { s.Process.OOMScoreAdj = &score }))
	})
}

// Nothing but the three streams is open, and the process is the leader of its own session.
func TestCleanProcess(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		got := e.Run(t, harness.Args("ls", "/proc/self/fd"))
		if diff := cmp.Diff("0\n1\n2\n3\n", got.Stdout); diff != "" { // 3 is ls's own
			t.Errorf("descriptors (-want +got):\n%s", diff)
		}
		prints(t, e, lines("1 1"), "awk '{ print $5, $6 }' /proc/1/stat")
		if e.Runtime == harness.Runc { // hands on the dispositions that it was started with
			return
		}
		got = e.Run(t, harness.Args("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"))
		if diff := cmp.Diff(lines("SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"), got.Stdout); diff != "" {
			t.Errorf("signals (-want +got):\n%s", diff)
		}
	})
}
