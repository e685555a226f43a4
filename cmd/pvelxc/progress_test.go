package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
)

// onTerminal runs this program on a terminal and gives what came there.
func onTerminal(t *testing.T, environ []string, args ...string) string {
	t.Helper()
	cmd := exec.Command("pvelxc", args...)
	cmd.Env = append(os.Environ(), environ...)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	data, err := io.ReadAll(terminal)
	// The kernel's way to say that nobody has the other end any more.
	if err != nil && !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil && len(args) > 0 && args[0] == "gc" {
		t.Fatalf("%v: %s", err, data)
	}
	return string(data)
}

// shown is what stays on a terminal: what a line was overwritten with.
func shown(text string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.ReplaceAll(text, "\r\n", "\n")) {
		if i := strings.LastIndex(line, "\x1b[2K\r"); i >= 0 {
			line = line[i+len("\x1b[2K\r"):]
		}
		b.WriteString(line)
	}
	return b.String()
}

const bar = "░"

var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// On a terminal long work shows a bar, which is gone in the end; NO_COLOR takes its colours, --quiet all of it, and a
// terminal that cannot move its cursor gets lines, as a file does.
func TestProgress(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "pvelxc.toml")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "version = 1\n[pve]\nroot = %q\nnode = \"pve1\"\n", dir+"/pve"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PVELXC_CONFIG", conf)
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	for name, test := range map[string]struct {
		environ            []string
		args               []string
		bar, colour, lines bool
	}{
		"gc":              {nil, []string{"gc"}, true, true, false},
		"gc, no colour":   {[]string{"NO_COLOR=1"}, []string{"gc"}, true, false, false},
		"gc, dumb":        {[]string{"TERM=dumb"}, []string{"gc"}, false, false, true},
		"gc, quiet":       {nil, []string{"gc", "--quiet"}, false, false, false},
		"gc, JSON":        {nil, []string{"gc", "--json"}, false, false, false},
		"install":         {nil, []string{"install", "--dry-run"}, true, true, false},
		"install, quiet":  {nil, []string{"install", "--dry-run", "--quiet"}, false, true, false}, // what fails is said, in red
		"install, colour": {[]string{"NO_COLOR=1"}, []string{"install", "--dry-run"}, true, false, false},
	} {
		if test.args[0] == "install" && os.Geteuid() != 0 {
			continue
		}
		text := onTerminal(t, test.environ, test.args...)
		if strings.Contains(text, bar) != test.bar || test.args[0] == "gc" && strings.Contains(text, "looking through containers\r\n") != test.lines {
			t.Errorf("%s: a bar %t, lines %t:\n%q", name, strings.Contains(text, bar), strings.Contains(text, "looking through containers\r\n"), text)
		}
		if !test.colour && colours.MatchString(text) {
			t.Errorf("%s: colours:\n%q", name, text)
		}
		if name == "gc" && !colours.MatchString(text) {
			t.Errorf("%s: no colours:\n%q", name, text)
		}
		if left := shown(text); strings.Contains(left, bar) || strings.Contains(left, "\r") {
			t.Errorf("%s: a bar stays:\n%q", name, left)
		}
	}
	// What is no terminal gets lines, and nothing that moves a cursor.
	out, err := exec.Command("pvelxc", "gc").CombinedOutput()
	if text := string(out); err != nil || strings.ContainsAny(text, "\x1b\r"+bar) ||
		!regexp.MustCompile(`(?s)^looking through containers\nlooking through control groups\n(looking through datasets\n)?comparing confs\n`).MatchString(text) {
		t.Errorf("%v: %q", err, text)
	}
	if out, err := exec.Command("pvelxc", "gc", "--json").CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "{") || !strings.Contains(string(out), `"leftovers": `) {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat(dir + "/pve"); err == nil {
		t.Error("a dry run made the directory of registrations")
	}
}
