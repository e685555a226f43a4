package machine

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// profile loads an AppArmor profile for the time of the test that denies writing to /tmp/denied.
func profile(t *testing.T) string {
	t.Helper()
	if enabled, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled"); !strings.HasPrefix(string(enabled), "Y") {
		t.Skip("needs AppArmor in the kernel: /sys/module/apparmor/parameters/enabled is not Y")
	}
	if _, err := exec.LookPath("apparmor_parser"); err != nil {
		t.Skip("needs apparmor_parser to load a profile")
	}
	name := "pvelxc-test-" + harness.Token
	text := fmt.Sprintf(`profile %s flags=(attach_disconnected,mediate_deleted) {
  file, capability, network, mount, umount, signal, ptrace, unix,
  deny /tmp/denied w,
}
`, name)
	text = strings.ReplaceAll(text, ", ", ",\n  ")
	parser := func(option string) error {
		cmd := exec.Command("apparmor_parser", "--skip-cache", option)
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apparmor_parser %s: %w: %s", option, err, out)
		}
		return nil
	}
	if err := parser("--replace"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := parser("--remove"); err != nil {
			t.Error(err)
		}
	})
	return name
}

func confined(name string) harness.Option {
	return harness.Edit(func(s *specs.Spec) { s.Process.ApparmorProfile = name })
}

// The profile holds for init and for execs, and what it denies is denied.
func TestAppArmor(t *testing.T) {
	name := profile(t)
	const try = "cat /proc/self/attr/current; echo x 2>/dev/null >/tmp/allowed && echo allowed; (echo x >/tmp/denied) 2>/dev/null || echo denied"
	want := name + " (enforce)\nallowed\ndenied\n"
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, confined(name), harness.Shell(try+"; exec sleep 1000000"))
		c.Saw(t, "denied\n")
		if got := c.Stdout.String(); got != want {
			t.Errorf("init printed %q, want %q", got, want)
		}
		if got := c.Sh(t, "rm /tmp/allowed; "+try); got != want {
			t.Errorf("exec printed %q, want %q", got, want)
		}
		// Seen from outside, where a container cannot have faked it.
		if got, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", c.Task.Pid())); err != nil || strings.TrimSpace(string(got)) != name+" (enforce)" {
			t.Errorf("on the host init is %q, %v", got, err)
		}
	})
}

// The profile holds where a change of it is hardest: after the user changed, with no new privileges,
// and in a user namespace.
func TestAppArmorUnprivileged(t *testing.T) {
	name := profile(t)
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		got := e.Run(t, confined(name), shifted(), harness.Spec(oci.WithUIDGID(1000, 1000), oci.WithNoNewPrivileges),
			harness.Shell("id -u; cat /proc/self/attr/current; (echo x >/tmp/denied) 2>/dev/null || echo denied"))
		if want := "1000\n" + name + " (enforce)\ndenied\n"; got.Stdout != want {
			t.Errorf("printed %q, want %q: %s", got.Stdout, want, got.Stderr)
		}
	})
}

// An exec may have another profile than init.
func TestAppArmorOfExec(t *testing.T) {
	name := profile(t)
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		got := c.Exec(t, []string{"cat", "/proc/self/attr/current"}, func(p *specs.Process) { p.ApparmorProfile = name })
		if want := name + " (enforce)\n"; got.Stdout != want {
			t.Errorf("printed %q, want %q: %s", got.Stdout, want, got.Stderr)
		}
	})
}

// A profile that is not loaded is named by the error, and nothing runs unconfined instead.
func TestAppArmorMissing(t *testing.T) {
	profile(t)
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c, err := e.TryCreate(t, confined("pvelxc-absent"), harness.Args("true"))
		if err == nil {
			err = c.Task.Start(e.Context)
		}
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), "apparmor") {
			t.Errorf("init with a profile that is not loaded: %v", err)
		}
		if e.Runtime == harness.Pvelxc && !strings.Contains(fmt.Sprint(err), "pvelxc-absent") {
			t.Errorf("the error does not name the profile: %v", err)
		}
		c = e.Start(t, harness.Forever())
		p := c.NewExec(t, nil, []string{"true"}, func(p *specs.Process) { p.ApparmorProfile = "pvelxc-absent" })
		if err := p.Start(e.Context); err == nil || !strings.Contains(strings.ToLower(err.Error()), "apparmor") {
			t.Errorf("exec with a profile that is not loaded: %v", err)
		}
	})
}
