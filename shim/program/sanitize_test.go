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
			return []string{monitorBinary(t, "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")}
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
	for name, c := range map[string]struct {
		args   []string
		socket bool
		code   int
		text   string
	}{
		"no arguments":   {nil, true, 64, ""},
		"no socket":      {[]string{"c", dir, config("none", ""), dir + "/exit"}, false, noExit, ""},
		"no config":      {[]string{"c", dir, dir + "/missing", dir + "/exit"}, true, noExit, "does not accept the generated config"},
		"unknown key":    {[]string{"c", dir, config("bad", "lxc.no.such.key = 1\n"), dir + "/exit"}, true, noExit, "does not accept the generated config"},
		"no root":        {[]string{"c", dir, config("root", "lxc.rootfs.path = dir:"+dir+"/missing\nlxc.log.file = "+dir+"/log\n"), dir + "/exit"}, true, failed, ""},
		"shim is gone":   {[]string{"c", dir, config("wait", ""), dir + "/exit", "wait"}, true, noExit, ""},
		"long exit file": {[]string{"c", dir, config("long", "lxc.rootfs.path = dir:"+dir+"/missing\n"), "/" + strings.Repeat("x", 5000)}, true, failed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(command[0], append(command[1:len(command):len(command)], c.args...)...)
			conn, peer, err := Pair()
			if err != nil {
				t.Fatal(err)
			}
			if c.socket {
				cmd.ExtraFiles = []*os.File{peer, os.Stdin}
			}
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			err = cmd.Start()
			_ = peer.Close()
			if err != nil {
				t.Fatal(err)
			}
			if name == "shim is gone" {
				_ = conn.Close()
			} else {
				defer conn.Close()
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
