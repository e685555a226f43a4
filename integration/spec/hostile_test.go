package spec

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
)

// What an image, a volume or a bundle could try against whoever makes a container of it. Each test would fail on a
// runtime that had the defect it is named after.

// outcome runs a container, which may also be refused: then there is no output.
func outcome(t *testing.T, e *harness.Env, opts ...harness.Option) (output string, err error) {
	t.Helper()
	c, err := e.TryCreate(t, opts...)
	if err != nil {
		return "", err
	}
	if err := c.Task.Start(e.Context); err != nil {
		return "", err
	}
	got := c.Wait(t)
	return got.Stdout + got.Stderr, nil
}

// hostDir binds a directory of the host.
func hostDir(source, destination string) harness.Option {
	return harness.Mounts(specs.Mount{Destination: destination, Type: "bind", Source: source, Options: []string{"rbind", "rw"}})
}

// A bundle with very many mounts is made, or refused; nothing is left either way.
func TestManyMounts(t *testing.T) {
	e := harness.On(t, harness.Pvelxc)
	dir := t.TempDir()
	for _, n := range []int{500, 10_000} {
		var mounts []specs.Mount
		for i := range n {
			mounts = append(mounts, specs.Mount{Destination: fmt.Sprint("/m/", i), Type: "bind", Source: dir, Options: []string{"bind"}})
		}
		got, err := outcome(t, e, harness.Mounts(mounts...), harness.Shell("grep -c ' /m/' /proc/self/mountinfo"))
		switch {
		case err == nil && got != fmt.Sprintln(n):
			t.Errorf("%d mounts: %q", n, got)
		case err != nil && (n == 500 || !strings.Contains(err.Error(), "mount")):
			t.Errorf("%d mounts: %.300v", n, err)
		}
	}
}

// CVE-2021-30465: another container exchanges a directory on the way to a mountpoint for a symlink while the
// mount is made. Wherever it lands, that is inside.
func TestSymlinkRace(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		shared, victim := t.TempDir(), t.TempDir()
		if err := os.MkdirAll(filepath.Join(shared, "x"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(victim, filepath.Join(shared, "y")); err != nil {
			t.Fatal(err)
		}
		dir, err := unix.Open(shared, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(dir)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					_ = unix.Renameat2(dir, "x", dir, "y", unix.RENAME_EXCHANGE)
				}
			}
		}()
		for range 8 {
			_, _ = outcome(t, e, hostDir(shared, "/shared"), harness.Args("true"), harness.Mounts(
				specs.Mount{Destination: "/shared/x/in", Type: "tmpfs", Source: "tmpfs"},
				specs.Mount{Destination: "/shared/x/bound", Type: "bind", Source: "/usr", Options: []string{"bind", "ro"}},
			))
		}
		close(stop)
		<-stopped
		if entries, err := os.ReadDir(victim); err != nil || len(entries) > 0 {
			t.Errorf("a mountpoint was made on the host: %v, %v", entries, err)
		}
	})
}

// CVE-2019-5736: a process of the container tries to write to the runtime's own program, which runs in the
// container for a moment at every exec.
func TestProgramIsNotWritten(t *testing.T) {
	sums := func() (all string) {
		for _, name := range []string{"pvelxc-init", "pvelxc-monitor", "pvelxc-shim"} {
			data, err := os.ReadFile(filepath.Join(daemon.Bin(), name))
			if err != nil {
				t.Fatal(err)
			}
			all += fmt.Sprintf("%x ", sha256.Sum256(data))
		}
		return all
	}
	before := sums()
	e := harness.On(t, harness.Pvelxc)
	// The script's interpreter is whoever executes it: the runtime itself runs inside again. A program that runs cannot
	// be opened for writing: so it is opened for reading while it is there, and again by that when it is gone.
	c := e.Start(t, harness.Shell(`printf '#!/proc/self/exe\n' >/evil; chmod +x /evil; trap 'exit 0' TERM
		while :; do
			for exe in /proc/[0-9]*/exe; do
				case $(readlink $exe) in *busybox*) continue;; esac
				(exec 9<$exe && echo SAW && for i in 1 2 3 4 5 6 7 8 9; do (exec 8>>/proc/self/fd/9) && echo WROTE && break; sleep 0.02; done) 2>/dev/null
			done
		done`))
	for range 15 {
		if got := c.Sh(t, "echo well"); got != "well\n" {
			t.Errorf("printed %q", got)
		}
		p := c.NewExec(t, nil, []string{"/evil"})
		if err := p.Start(e.Context); err == nil {
			p.Wait(t)
		}
	}
	if got := c.Stdout.String(); strings.Contains(got, "WROTE") {
		t.Errorf("the runtime's program was opened for writing: %q", got)
	}
	if after := sums(); after != before {
		t.Errorf("the runtime's programs have changed: %s, were %s", after, before)
	}
}

// CVE-2024-21626: a descriptor of the runtime's for a directory of the host is the working directory.
func TestWorkingDirectoryOutside(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		secret := t.TempDir()
		if err := os.WriteFile(filepath.Join(secret, "key"), []byte("SECRET"), 0o600); err != nil {
			t.Fatal(err)
		}
		links := t.TempDir()
		script := "cat ." + strings.Repeat("/..", 12) + secret + "/key"
		c := e.Start(t, hostDir(links, "/links"), harness.Forever())
		for fd := 3; fd < 20; fd++ {
			cwd := fmt.Sprint("/proc/self/fd/", fd)
			link := fmt.Sprint("/links/", fd)
			if err := os.Symlink(cwd, filepath.Join(links, fmt.Sprint(fd))); err != nil {
				t.Fatal(err)
			}
			for _, dir := range []string{cwd, link} {
				p := c.NewExec(t, nil, []string{"sh", "-c", script}, func(p *specs.Process) { p.Cwd = dir })
				if err := p.Start(e.Context); err == nil && strings.Contains(p.Wait(t).Stdout, "SECRET") {
					t.Errorf("exec in %s reads a file of the host's", dir)
				}
			}
			if fd%4 != 0 { // a container takes longer than an exec
				continue
			}
			if got, err := outcome(t, e, hostDir(links, "/links"), harness.Spec(oci.WithProcessCwd(link)), harness.Shell(script)); err == nil && strings.Contains(got, "SECRET") {
				t.Errorf("a container in %s reads a file of the host's", link)
			}
		}
	})
}

// devices is a directory for /dev in which one name is a symlink.
func devices(t *testing.T, name, target string) harness.Option {
	t.Helper()
	dev := t.TempDir()
	if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
		t.Fatal(err)
	}
	return harness.Edit(func(s *specs.Spec) {
		for i, m := range s.Mounts {
			if m.Destination == "/dev" {
				s.Mounts[i] = specs.Mount{Destination: "/dev", Type: "bind", Source: dev, Options: []string{"bind", "rw"}}
			}
		}
	})
}

// CVE-2025-31133: what is mounted over masked paths is not whatever the image has at /dev/null.
func TestNullIsNotTheMask(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		got, err := outcome(t, e, devices(t, "null", "/proc/sys/kernel/core_pattern"),
			harness.Spec(oci.WithMaskedPaths([]string{"/proc/keys"})),
			harness.Shell("stat -c %t:%T /proc/keys; grep -c ' /sys/kernel/core_pattern ' /proc/self/mountinfo"))
		if err == nil && got != "1:3\n0\n" {
			t.Errorf("the mask is %q", got)
		}
	})
}

// Whatever the container has at /dev/null, and whatever its root does with the streams and masks that he was given, the
// host's stays everybody's.
func TestHostsNullStays(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		if e.Runtime == harness.Runc {
			t.Skip("runc's masks are the container's /dev/null itself")
		}
		before, err := os.Stat(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(os.DevNull, before.Mode()); os.Chown(os.DevNull, 0, 0) })
		const spoil = "for f in /proc/self/fd/* /proc/keys /proc/timer_list; do chmod 0 $f; chown 7:7 $f; done 2>&1; echo end"
		for name, target := range map[string]string{"is a link": "/proc/sys/kernel/ostype", "is missing": ""} {
			opts := []harness.Option{harness.Spec(oci.WithMaskedPaths([]string{"/proc/keys", "/proc/timer_list"})), harness.Shell(spoil)}
			if target != "" {
				opts = append(opts, devices(t, "null", target))
			} else {
				opts = append(opts, devices(t, "other", "nothing"))
			}
			for _, o := range [][]harness.Option{opts, {harness.Spec(oci.WithMaskedPaths([]string{"/proc/keys"})), harness.Shell(spoil)}} {
				got, err := outcome(t, e, o...)
				if err == nil && !strings.HasSuffix(got, "end\n") {
					t.Errorf("/dev/null %s: %q", name, got)
				}
				if err != nil {
					t.Logf("/dev/null %s: refused: %v", name, err)
				}
				after, err := os.Stat(os.DevNull)
				if err != nil {
					t.Fatal(err)
				}
				if after.Mode() != before.Mode() {
					t.Fatalf("/dev/null %s: the host's has mode %v, had %v", name, after.Mode(), before.Mode())
				}
			}
		}
	})
}

// CVE-2025-52565: the terminal is not bound over whatever the image has at /dev/console or /dev/pts.
func TestConsoleIsNotElsewhere(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		for _, target := range []string{"/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/etc/passwd"} {
			got, err := outcome(t, e, harness.TTY(), devices(t, "console", target), harness.Shell("grep -E ' (/proc/.*|/etc/passwd) .* devpts ' /proc/self/mountinfo; echo end"))
			if err == nil && strings.TrimSpace(got) != "end" {
				t.Errorf("the terminal is bound over %s: %q", target, got)
			}
		}
	})
}

// CVE-2025-52881: what the runtime writes into /proc goes into the kernel's own files, whatever a volume that is
// shared with another container puts in its way.
func TestProcIsTheKernels(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		links := t.TempDir()
		for name, target := range map[string]string{"attr": "/proc/self/attr", "sys": "/proc/sys/kernel", "thread": "/proc/thread-self/attr"} {
			if err := os.Symlink(target, filepath.Join(links, name)); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"attr", "sys", "thread"} {
			got, err := outcome(t, e, hostDir(links, "/links"), harness.Mounts(specs.Mount{Destination: "/links/" + name, Type: "tmpfs", Source: "tmpfs"}),
				harness.Shell("grep -cE ' /proc/[^ ]+ [^ ]* .*- tmpfs .*' /proc/self/mountinfo; cat /proc/sys/kernel/ostype"))
			if err == nil && !strings.HasSuffix(got, "Linux\n") {
				t.Errorf("%s: %q", name, got)
			}
			if e.Runtime == harness.Pvelxc && err == nil {
				t.Errorf("a mount through %s into /proc is made", name)
			}
		}
	})
}

// A descriptor for a directory of the host does not come into the container, as its streams either.
func TestNullIsTheContainersOwn(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("same", "same"), `own=$(stat -c %d /dev/null); for fd in 0; do
			[ $(stat -L -c %d /proc/self/fd/$fd) = $own ] && echo same || echo other; done
			grep -q "^mnt_id:.*" /proc/self/fdinfo/0 && id=$(awk '/mnt_id/ { print $2 }' /proc/self/fdinfo/0)
			awk -v id=$id '$1 == id { found = 1 } END { print found ? "same" : "other" }' /proc/self/mountinfo`)
	})
}
