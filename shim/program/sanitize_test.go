package program

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// judge gives a checker one frame and returns how it ended.
func judge(t *testing.T, prog []byte, command ...string) (stderr string, err error) {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	frame := order.AppendUint32(order.AppendUint32(nil, uint32(RoleInit)), uint32(len(prog)))
	cmd.Stdin = bytes.NewReader(append(frame, prog...))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &out
	err = cmd.Run()
	return out.String(), err
}

// TestPlantedMistakes: a reader that is told a length that is too large must be found out, by the sanitizers and
// by valgrind, or their silence means nothing.
func TestPlantedMistakes(t *testing.T) {
	b := new(Builder)
	b.Hostname("x")
	prog := program(t, b).Bytes()
	// Cut where the reader goes on: it then reads what it was not given.
	prog = prog[:headerSize+8]
	planted := []string{"-DPVX_CHECK", "-DPVX_PLANTED=8", "-g", "-O1"}
	sanitizer := compile(t, "planted", append(planted, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")...)
	var exit *exec.ExitError
	if stderr, err := judge(t, prog, sanitizer); !errors.As(err, &exit) || !strings.Contains(stderr, "heap-buffer-overflow") {
		t.Errorf("the sanitizers see nothing: %v\n%s", err, stderr)
	}
	valgrind, err := exec.LookPath("valgrind")
	if err != nil {
		t.Skipf("needs valgrind: %v", err)
	}
	plain := compile(t, "planted-plain", planted...)
	if stderr, err := judge(t, prog, valgrind, "-q", "--error-exitcode=99", plain); !errors.As(err, &exit) || exit.ExitCode() != 99 {
		t.Errorf("valgrind sees nothing: %v\n%s", err, stderr)
	}
}

// monitorBinary builds pvelxc-monitor with sanitizers, or for valgrind.
func monitorBinary(t *testing.T, flags ...string) string {
	t.Helper()
	text, err := exec.Command("pkg-config", "--cflags", "--libs", "lxc").Output()
	if err != nil {
		t.Skipf("needs liblxc's headers (Debian package lxc-dev): %v", err)
	}
	path := filepath.Join(t.TempDir(), "pvelxc-monitor")
	args := append([]string{"-D_GNU_SOURCE", "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-o", path, "../monitor/monitor.c"}, flags...)
	if out, err := exec.Command("gcc", append(args, strings.Fields(string(text))...)...).CombinedOutput(); err != nil {
		t.Fatalf("build pvelxc-monitor: %v\n%s", err, out)
	}
	return path
}

// TestMonitorFailures are the ways of the monitor that end without a container. Integration tests run containers
// with a monitor that is built with sanitizers too.
func TestMonitorFailures(t *testing.T) {
	needRoot(t)
	for name, build := range map[string]func(*testing.T) []string{
		"sanitizers": func(t *testing.T) []string {
			return []string{monitorBinary(t, withSanitizers...)}
		},
		"valgrind": func(t *testing.T) []string {
			valgrind, err := exec.LookPath("valgrind")
			if err != nil {
				t.Skipf("needs valgrind: %v", err)
			}
			// Apart: it also tells which system calls of liblxc's it does not know.
			return []string{valgrind, "-q", "--error-exitcode=99", "--log-file=" + filepath.Join(t.TempDir(), "valgrind"), monitorBinary(t)}
		},
	} {
		t.Run(name, func(t *testing.T) { monitorFailures(t, build(t)) })
	}
}

func monitorFailures(t *testing.T, command []string) {
	dir := t.TempDir()
	config := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const (
		noExit = 70 // EXIT_NOT_STARTED
		failed = -1 // what liblxc says of a child of its own that failed: anything but 0
	)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	of := func(config, exit string) *Container {
		return &Container{Stdin: null, Stdout: null, Stderr: null, Init: null, Name: "c", LXCPath: dir, Config: config, ExitFile: exit}
	}
	for name, c := range map[string]struct {
		container *Container
		socket    bool
		code      int
		text      string
	}{
		"no socket":    {nil, false, noExit, ""},
		"shim is gone": {nil, true, noExit, ""},
		"no config":    {of(dir+"/missing", dir+"/exit"), true, noExit, "does not accept the generated config"},
		"unknown key":  {of(config("bad", "lxc.no.such.key = 1\n"), dir+"/exit"), true, noExit, "does not accept the generated config"},
		"no root": {of(config("root", "lxc.rootfs.path = dir:"+dir+"/missing\nlxc.log.file = "+dir+"/log\n"), dir+"/exit"),
			true, failed, ""},
		"long exit file": {of(config("long", "lxc.rootfs.path = dir:"+dir+"/missing\n"), "/"+strings.Repeat("x", 5000)), true, failed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(command[0], command[1:]...)
			conn, peer, err := Pair()
			if err != nil {
				t.Fatal(err)
			}
			if c.socket {
				cmd.ExtraFiles = []*os.File{peer}
			}
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			err = cmd.Start()
			_ = peer.Close()
			if err != nil {
				t.Fatal(err)
			}
			if c.container == nil {
				_ = conn.Close()
			} else {
				defer conn.Close()
				if err := conn.SendContainer(t.Context(), *c.container); err != nil {
					t.Error(err)
				}
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != c.code && (c.code != failed || code == 0) || code == 99 || out.Len() > 0 {
				t.Errorf("exit status %d, want %d\n%s", code, c.code, out.String())
			}
			if c.text == "" {
				return
			}
			msg, err := conn.Recv(t.Context())
			if err != nil || msg.Type != MsgError || !strings.Contains(msg.Text, c.text) {
				t.Errorf("told %+v, %v, want an error with %q", msg, err, c.text)
			}
		})
	}
}
