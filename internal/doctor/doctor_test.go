package doctor

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/internal/host"
	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/pve/pvetest"
	"github.com/pvelxc/pvelxc/shim/container"
	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/service"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/fake"
)

// A case is a file of testdata/CHECK: the files of a machine (scripts in bin/ are its
// commands), and before them lines with what to do and what to expect:
//
//	want STATUS REGEXP       the check's answer
//	mended                   --fix makes the answer ok
//	mode OCTAL PATH          another mode for a file
//	link PATH TARGET         a symbolic link
//	statfs PATH BLOCKS FREE  what statfs(2) says, in blocks of 4096
//	snapshotter PATH N       a snapshotter with N snapshots listens there
//	api [PRIVILEGE...]       the API answers a token that lacks these
//	no-api                   there is a token, and no API
//	container ID [WHY]       a container, registered or not; "deleting" is one that goes
type fixture struct {
	*Node
	t      *testing.T
	root   string
	status string
	want   *regexp.Regexp
	mended bool
}

func load(t *testing.T, path string) *fixture {
	t.Helper()
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, root: t.TempDir()}
	h := &host.Host{Root: f.root, Path: filepath.Join(f.root, "bin") + ":/usr/bin:/bin"}
	for _, file := range archive.Files {
		mode := os.FileMode(0o644)
		if strings.Contains("/"+file.Name, "/bin/") {
			mode = 0o755
		}
		if err := h.Write(file.Name, file.Data, mode); err != nil {
			t.Fatal(err)
		}
	}
	conf := config.Default()
	if text, err := h.Read(config.DefaultPath); err == nil {
		if conf, err = conf.Override(config.DefaultPath, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	f.Node = New(t.Context(), h, conf)
	f.Containers = func() ([]node.Container, error) { return nil, nil }
	for line := range strings.Lines(string(archive.Comment)) {
		if words := strings.Fields(line); len(words) > 0 && !strings.HasPrefix(line, "#") {
			f.directive(words)
		}
	}
	if f.want == nil {
		t.Fatalf("%s expects nothing", path)
	}
	return f
}

func (f *fixture) directive(words []string) {
	f.t.Helper()
	number := func(s string, base int) uint64 {
		n, err := strconv.ParseUint(s, base, 64)
		if err != nil {
			f.t.Fatal(err)
		}
		return n
	}
	var err error
	switch words[0] {
	case "want":
		f.status, f.want = words[1], regexp.MustCompile(strings.Join(words[2:], " "))
	case "mended":
		f.mended = true
	case "mode":
		err = os.Chmod(f.At(words[2]), os.FileMode(number(words[1], 8)))
	case "link":
		if err = os.MkdirAll(filepath.Dir(f.At(words[1])), 0o755); err == nil {
			err = os.Symlink(strings.Join(words[2:], " "), f.At(words[1]))
		}
	case "statfs":
		f.Statfs = func(path string) (unix.Statfs_t, error) {
			if path != words[1] {
				return unix.Statfs_t{}, unix.ENOENT
			}
			return unix.Statfs_t{Bsize: 4096, Blocks: number(words[2], 10), Bfree: number(words[3], 10)}, nil
		}
	case "api":
		s := pvetest.StartAPI(f.t)
		s.Deny(words[1:]...)
		f.Config.PVE.API = config.API{URL: s.URL, TokenFile: s.TokenFile, CAFile: s.CAFile}
	case "no-api":
		s := pvetest.StartAPI(f.t)
		f.Config.PVE.API = config.API{URL: s.URL, TokenFile: s.TokenFile, CAFile: s.CAFile}
		s.Close()
	case "container":
		c := node.Container{Info: container.Info{Namespace: "default", ID: words[1]}, VMID: 900000}
		switch why := strings.Join(words[2:], " "); why {
		case "":
		case "deleting":
			c.VMID, c.Unregistered, c.Deleting = 0, "no quorum", true
		default:
			c.VMID, c.Unregistered = 0, why
		}
		before := f.Containers
		f.Containers = func() ([]node.Container, error) {
			list, err := before()
			return append(list, c), err
		}
	case "snapshotter":
		serveSnapshots(f.t, f.At(words[1]), int(number(words[2], 10)))
	default:
		err = fmt.Errorf("unknown directive %q", words[0])
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// serveSnapshots runs the real service on the model of a pool.
func serveSnapshots(t *testing.T, address string, n int) {
	t.Helper()
	b, err := fake.New(t.TempDir(), "pool")
	if err != nil {
		t.Fatal(err)
	}
	sn, err := snapshotter.Open(t.Context(), snapshotter.Options{Root: "pool/pvelxc", Dir: t.TempDir(), Backend: b, ForeignSnapshots: snapshotter.KeepForeign})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, err := sn.Prepare(t.Context(), fmt.Sprint("key", i), ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(address), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- service.Serve(ctx, l, service.Services{Snapshotter: sn}) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := sn.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Every check has machines on which all is well, and on which something is wrong, which it
// says together with what to do.
func TestChecks(t *testing.T) {
	for _, check := range Checks {
		paths, err := filepath.Glob(filepath.Join("testdata", check.Name, "*.txtar"))
		if err != nil {
			t.Fatal(err)
		}
		seen := map[bool]int{}
		for _, path := range paths {
			t.Run(check.Name+"/"+strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
				f := load(t, path)
				r := ask(t.Context(), f.Node, check)
				if r.Status.String() != f.status || !f.want.MatchString(r.Message) {
					t.Errorf("%s: %s (fix: %s); want %s: %s", r.Status, r.Message, r.Fix, f.status, f.want)
				}
				if bad := r.Status > OK; bad != (r.Fix != "") {
					t.Errorf("status %s has the fix %q", r.Status, r.Fix)
				}
				seen[r.Status > OK]++
				if f.mended != (r.Mend != nil) && f.mended {
					t.Fatal("nothing mends it")
				}
				if f.mended {
					f.mendIt(check, r)
				}
			})
		}
		if seen[true] == 0 || seen[false] == 0 {
			t.Errorf("%s: %d machines on which it finds something, %d on which it does not", check.Name, seen[true], seen[false])
		}
	}
}

func (f *fixture) mendIt(check Check, r Result) {
	f.t.Helper()
	if err := r.Mend(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	again := New(f.t.Context(), f.Host, f.Config)
	if got := ask(f.t.Context(), again, check); got.Status != OK {
		f.t.Errorf("mended, and still %s: %s", got.Status, got.Message)
	}
}

// A machine with nothing on it gives an answer to every question, and no answer is a panic.
func TestEmptyMachine(t *testing.T) {
	h := &host.Host{Root: t.TempDir(), Path: "/nonexistent"}
	results, err := Run(t.Context(), New(t.Context(), h, config.Default()))
	if err != nil || len(results) != len(Checks) {
		t.Fatalf("%d results, %v", len(results), err)
	}
	for i, r := range results {
		if r.Name != Checks[i].Name || r.Message == "" {
			t.Errorf("%+v is not the answer of %s", r, Checks[i].Name)
		}
	}
	if Worst(results) != Failure {
		t.Error("a machine without containerd is fine")
	}
}

func TestNames(t *testing.T) {
	if _, err := Run(t.Context(), nil, "quorm"); err == nil || !strings.Contains(err.Error(), "hint: one of pve-version, ") {
		t.Errorf("an unknown name: %v", err)
	}
}

// A check that hangs in the kernel is an answer, and holds up nobody.
func TestHangingCheck(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	never := make(chan struct{})
	r := ask(ctx, nil, Check{Name: "hangs", Run: func(context.Context, *Node) Result { <-never; return ok("") }})
	if r.Status != Failure || !strings.Contains(r.Message, "no answer") {
		t.Errorf("%+v", r)
	}
}
