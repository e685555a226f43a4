package program

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

func TestExecErrors(t *testing.T) {
	root := newRoot(t)
	writeFile(t, root+"/bin/noexec", "x", 0o644)
	writeFile(t, root+"/bin/badformat", "\x00\x01\x02", 0o755)
	writeFile(t, root+"/usr/late", "#!/bin/sh\necho late $*", 0o755)
	writeFile(t, root+"/tmp/late", "", 0o644)
	for name, c := range map[string]struct {
		args  []string
		path  string
		errno syscall.Errno
		code  int
		text  string
	}{
		"not in path":     {[]string{"nothing"}, "/bin:/usr", unix.ENOENT, 127, "executable file not found in $PATH"},
		"no path":         {[]string{"sh"}, "", unix.ENOENT, 127, "executable file not found in $PATH"},
		"absolute":        {[]string{"/bin/nothing"}, "/bin", unix.ENOENT, 127, "/bin/nothing"},
		"no permission":   {[]string{"noexec"}, "/bin", unix.EACCES, 126, ""},
		"directory":       {[]string{"/usr"}, "", unix.EACCES, 126, ""},
		"bad format":      {[]string{"badformat"}, "/bin", unix.ENOEXEC, 126, ""},
		"empty name":      {[]string{""}, "/bin", unix.ENOENT, 127, ""},
		"relative to cwd": {[]string{"bin/nothing"}, "/bin", unix.ENOENT, 127, "bin/nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			r := startInit(t, options{}, root)
			b := new(Builder)
			b.Ready()
			b.Exec(c.args, []string{"PATH=" + c.path})
			err := r.serve(program(t, b), nil)
			if !errors.Is(err, c.errno) || !strings.Contains(fmt.Sprint(err), c.text) {
				t.Errorf("got %v, want %v", err, c.errno)
			}
			_ = r.wait()
			if code := r.cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("exit status %d, want %d", code, c.code)
			}
			if c.errno == unix.ENOEXEC {
				return
			}
			if err := initError(t, options{}, root, func(b *Builder) { b.LookPath(c.args[0], c.path, "/") }); !errors.Is(err, c.errno) {
				t.Errorf("LookPath: got %v, want %v", err, c.errno)
			}
		})
	}
	// A file that may not be executed does not end the search.
	for _, path := range []string{"/none:/tmp:/usr", "/bin/sh:/usr", strings.Repeat("/x", 4000) + ":/usr", "tmp::/usr", "usr"} {
		r := startInit(t, options{}, root)
		b := new(Builder)
		b.LookPath("late", path, "/")
		b.Exec([]string{"late", "a b", ""}, []string{"PATH=/wrong", "PATH=" + path})
		if err := r.serve(program(t, b), nil); !errors.Is(err, io.EOF) {
			t.Errorf("PATH=%.20s: %v", path, err)
		}
		if err := r.wait(); err != nil || r.out.String() != "late a b\n" {
			t.Errorf("PATH=%.20s: %v, output %q", path, err, r.out.String())
		}
	}
}

func TestExecPassesEverything(t *testing.T) {
	args := []string{"/bin/sh", "-c", `for a; do echo "[$a]"; done; env`, "0", "", "a b", "\"'\\\n", strings.Repeat("l", 100000), "\xff"}
	env := []string{"PATH=/bin", "A=1=2", "EMPTY="}
	r := startInit(t, options{}, newRoot(t))
	b := new(Builder)
	b.Exec(args, env)
	if err := r.serve(program(t, b), nil); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	want := ""
	for _, a := range args[4:] {
		want += "[" + a + "]\n"
	}
	got := r.out.String()
	if !strings.HasPrefix(got, want) {
		t.Errorf("arguments differ: got %.200q", got)
	}
	rest := strings.TrimPrefix(got, want)
	for _, e := range env {
		if !strings.Contains(rest, e+"\n") {
			t.Errorf("%s is missing from %q", e, rest)
		}
	}
	if strings.Contains(rest, "container=") {
		t.Errorf("liblxc's environment came through: %q", rest)
	}
	many := make([]string, 1<<18)
	err := initError(t, options{}, newRoot(t), func(b *Builder) { b.Exec([]string{"/bin/true"}, many) })
	if !errors.Is(err, unix.E2BIG) {
		t.Errorf("%d variables: got %v, want E2BIG", len(many), err)
	}
}

func TestNoDescriptorsLeak(t *testing.T) {
	got := output(t, options{}, newRoot(t), "ls /proc/1/fd; true", func(b *Builder) {
		b.Mask(tree(t, "/dev/null"), "/proc/timer_list")
		b.Cwd("/", false)
		b.Home(0)
	})
	if got != "0\n1\n2" {
		t.Errorf("descriptors %q, want 0 to 2", got)
	}
}

func TestTerminal(t *testing.T) {
	root := newRoot(t)
	if err := os.Symlink("pts/ptmx", root+"/dev/ptmx"); err != nil {
		t.Fatal(err)
	}
	ttyNode(t, root)
	r := startInit(t, options{mounts: "devpts devpts /dev/pts"}, root)
	b := new(Builder)
	b.Terminal(33, 44, 1000, true)
	b.User(oci2lxc.Capabilities{}, false, 1000, 1000, nil)
	b.Signals(0)
	b.Ready()
	b.Exec([]string{"/bin/sh", "-c", "tty; stty size; stat -c '%u %t' /dev/console; echo to tty >/dev/tty; ls -1 /proc/self/fd; read x; echo got $x"}, []string{"PATH=/bin"})
	fds := map[FDKind]*os.File{}
	if err := r.serve(program(t, b), fds); err != nil {
		t.Fatal(err)
	}
	master := fds[FDConsole]
	if master == nil {
		t.Fatal("no terminal came")
	}
	_ = master.SetDeadline(time.Now().Add(patience))
	fmt.Fprintln(master, "typed")
	out, _ := io.ReadAll(bufio.NewReader(master)) // ends with EIO
	got := strings.ReplaceAll(string(out), "\r", "")
	for _, want := range []string{"/dev/pts/0\n", "33 44\n", "1000 88\n", "to tty\n", "got typed\n", "0\n1\n2\n3\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("output %q lacks %q", got, want)
		}
	}

	fake := newRoot(t)
	mkdir(t, fake+"/dev/pts")
	if err := unix.Mknod(fake+"/dev/pts/ptmx", unix.S_IFCHR|0o666, 1<<8|5); err != nil {
		t.Fatal(err)
	}
	if err := initError(t, options{}, fake, func(b *Builder) { b.Terminal(0, 0, 0, false) }); !errors.Is(err, unix.ENOTTY) || !strings.Contains(err.Text, "multiplexer") {
		t.Errorf("another device: got %v, want ENOTTY", err)
	}
	if err := initError(t, options{}, newRoot(t), func(b *Builder) { b.Terminal(0, 0, 0, false) }); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no devpts: got %v, want ENOENT", err)
	}
	console := newRoot(t)
	if err := os.Symlink("/etc/passwd", console+"/dev/console"); err != nil {
		t.Fatal(err)
	}
	if err := initError(t, options{mounts: "devpts devpts /dev/pts"}, console, func(b *Builder) { b.Terminal(0, 0, 0, true) }); !errors.Is(err, unix.ELOOP) {
		t.Errorf("console is a link: got %v, want ELOOP", err)
	}
}

func ttyNode(t *testing.T, root string) {
	t.Helper()
	if err := unix.Mknod(root+"/dev/tty", unix.S_IFCHR, 5<<8); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root+"/dev/tty", 0o666); err != nil {
		t.Fatal(err)
	}
}
