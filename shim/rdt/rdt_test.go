package rdt

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// newRoot is a directory with the shape of resctrl. What the kernel does by itself,
// the test does: a class has mon_groups.
func newRoot(t *testing.T, classes ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, class := range append(classes, "") {
		if err := os.MkdirAll(filepath.Join(root, class, "mon_groups"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, class, "schemata"), "    L3:0=00ff;1=c0\n    MB:0= 20;1=70\n")
	}
	return root
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestOwnClass(t *testing.T) {
	root := newRoot(t)
	g, err := Apply(root, "c1", &specs.LinuxIntelRdt{Schemata: []string{"L3:0=1", "L2:0=2"}, L3CacheSchema: "L3:0=f", MemBwSchema: "MB:0=10"}, 42)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Group{Class: filepath.Join(root, "c1"), Owned: true}); g != want {
		t.Errorf("%+v, want %+v", g, want)
	}
	if got := read(t, g.Class, "schemata"); got != "L3:0=f\nMB:0=10\nL3:0=1\nL2:0=2\n" {
		t.Errorf("schemata %q", got)
	}
	if got := read(t, g.Class, "tasks"); got != "42" {
		t.Errorf("tasks %q", got)
	}
	if err := g.Join(43); err != nil || read(t, g.Class, "tasks") != "43" {
		t.Errorf("Join: %v, tasks %q", err, read(t, g.Class, "tasks"))
	}
	// rmdir takes the files of a class along only in the kernel.
	for _, file := range []string{"schemata", "tasks"} {
		if err := os.Remove(filepath.Join(g.Class, file)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(g.Class); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the class is still there: %v", err)
	}
}

func TestSharedClass(t *testing.T) {
	root := newRoot(t, "gold")
	before := read(t, root, "gold", "schemata")
	g, err := Apply(root, "c1", &specs.LinuxIntelRdt{ClosID: "gold", EnableMonitoring: true}, 42)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Group{Class: filepath.Join(root, "gold"), Monitoring: filepath.Join(root, "gold/mon_groups/c1")}); g != want {
		t.Errorf("%+v, want %+v", g, want)
	}
	if read(t, g.Class, "tasks") != "42" || read(t, g.Monitoring, "tasks") != "42" {
		t.Error("the process is not in both groups")
	}
	if after := read(t, g.Class, "schemata"); after != before {
		t.Errorf("schemata was written: %q", after)
	}
	if err := os.Remove(filepath.Join(g.Monitoring, "tasks")); err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(g.Monitoring); !errors.Is(err, os.ErrNotExist) {
		t.Error("the monitoring group is still there")
	}
	if _, err := os.Stat(g.Class); err != nil {
		t.Errorf("somebody else's class is gone: %v", err)
	}
}

// TestNamedClass: one that is made because it was missing is for others, too.
func TestNamedClass(t *testing.T) {
	root := newRoot(t)
	g, err := Apply(root, "c1", &specs.LinuxIntelRdt{ClosID: "silver", L3CacheSchema: "L3:0=f"}, 42)
	if err != nil || g.Owned || read(t, g.Class, "schemata") != "L3:0=f\n" {
		t.Fatalf("%+v, %v", g, err)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(g.Class); err != nil {
		t.Errorf("the class is gone: %v", err)
	}
}

func TestDefaultClass(t *testing.T) {
	root := newRoot(t)
	g, err := Apply(root, "c1", &specs.LinuxIntelRdt{ClosID: "/"}, 42)
	if err != nil || g.Owned || read(t, root, "tasks") != "42" {
		t.Errorf("%+v, %v", g, err)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(root); err != nil {
		t.Errorf("the root is gone: %v", err)
	}
}

func TestExistingSchema(t *testing.T) {
	for _, tc := range []struct {
		name  string
		r     specs.LinuxIntelRdt
		class error
	}{
		{"the same, written otherwise", specs.LinuxIntelRdt{L3CacheSchema: "L3:0=ff;1=0xc0", MemBwSchema: "MB:1=70;0=20"}, nil},
		{"a part of it", specs.LinuxIntelRdt{L3CacheSchema: "L3:1=c0"}, nil},
		{"another mask", specs.LinuxIntelRdt{L3CacheSchema: "L3:0=fe"}, errdefs.ErrFailedPrecondition},
		{"another bandwidth", specs.LinuxIntelRdt{MemBwSchema: "MB:0=30"}, errdefs.ErrFailedPrecondition},
		{"a domain that does not exist", specs.LinuxIntelRdt{L3CacheSchema: "L3:2=ff"}, errdefs.ErrFailedPrecondition},
		{"malformed", specs.LinuxIntelRdt{L3CacheSchema: "L3:0"}, errdefs.ErrInvalidArgument},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := newRoot(t, "gold")
			tc.r.ClosID = "gold"
			_, err := Apply(root, "c1", &tc.r, 42)
			if !errors.Is(err, tc.class) {
				t.Errorf("error %v, want %v", err, tc.class)
			}
			if _, err := os.Stat(filepath.Join(root, "gold")); err != nil {
				t.Errorf("somebody else's class is gone: %v", err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	root := newRoot(t)
	if _, err := Apply(root, "c1", &specs.LinuxIntelRdt{ClosID: "none"}, 42); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("a class that must exist: %v", err)
	}
	for _, id := range []string{"..", ".", "a/b", "../x"} {
		if _, err := Apply(root, "c1", &specs.LinuxIntelRdt{ClosID: id, L3CacheSchema: "L3:0=f"}, 42); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("class %q: %v", id, err)
		}
	}
}

// TestFailureLeavesNothing: the monitoring group cannot be made, since its parent
// is missing, and the class goes again.
func TestFailureLeavesNothing(t *testing.T) {
	root := newRoot(t)
	if err := os.MkdirAll(filepath.Join(root, "info"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "info/last_cmd_status"), "no monitors left\n")
	_, err := Apply(root, "c1", &specs.LinuxIntelRdt{EnableMonitoring: true}, 42)
	if err == nil || !strings.Contains(err.Error(), "resctrl: no monitors left") {
		t.Errorf("error %v does not say what the kernel says", err)
	}
	if _, err := os.Stat(filepath.Join(root, "c1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the class is still there: %v", err)
	}
}

func TestRoot(t *testing.T) {
	root, err := Root()
	if err != nil {
		if !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "hint:") {
			t.Errorf("without resctrl: %v", err)
		}
		return
	}
	if _, err := os.Stat(filepath.Join(root, "schemata")); err != nil {
		t.Error(err)
	}
}

func FuzzParseSchema(f *testing.F) {
	f.Add("L3:0=ff;1=c0")
	f.Add("    MB:0= 20;1=70\n")
	f.Fuzz(func(t *testing.T, line string) {
		resource, domains, err := parseSchema(line)
		if err == nil && (resource == "" || len(domains) == 0) {
			t.Errorf("%q gives %q %v", line, resource, domains)
		}
	})
}
