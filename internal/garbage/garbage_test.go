package garbage

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"github.com/pvelxc/pvelxc/shim/layout"
	api "github.com/pvelxc/pvelxc/snapshotter/garbage"
)

// daemon is a snapshotter as far as it is asked.
type daemon struct {
	items []api.Item
	// stays are what Reclaim cannot destroy, and why.
	stays map[string]string
	fails error
	calls int
}

func (d *daemon) Garbage(context.Context) ([]api.Item, error) { return d.items, nil }

func (d *daemon) Reclaim(context.Context) error {
	d.calls++
	var left []api.Item
	for _, i := range d.items {
		if reason := d.stays[i.Name]; reason != "" {
			left = append(left, api.Item{Name: i.Name, Reason: reason})
		} else if i.Kept {
			left = append(left, i)
		}
	}
	d.items = left
	return d.fails
}

// serve has a server listen; nil for one that knows nothing of garbage.
func serve(t *testing.T, c api.Collector) string {
	t.Helper()
	address := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	if c != nil {
		api.Register(server, c)
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return address
}

func quiet(string, int) {}

func TestDatasets(t *testing.T) {
	d := &daemon{
		items: []api.Item{{Name: "p/s/a", Reason: "removed"}, {Name: "p/s/b@c", Reason: "removed"}, {Name: "p/s/d", Reason: "lost", Kept: true}},
		stays: map[string]string{"p/s/b@c": "cannot be destroyed: busy"},
	}
	sources := []Source{Datasets(serve(t, d))}
	want := []string{"dataset p/s/a removed: removed", "snapshot p/s/b@c removed: removed", "dataset p/s/d kept: lost"}
	check := func(apply bool, want []string) {
		t.Helper()
		items, err := Collect(t.Context(), sources, apply, quiet)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, i := range items {
			got = append(got, i.Kind+" "+i.Name+" "+i.Action()+": "+i.Reason)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("apply %t (-want +got):\n%s", apply, diff)
		}
	}
	check(false, want)
	if d.calls != 0 {
		t.Error("a dry run destroys")
	}
	// What is in use stays for later, which is no failure; all are destroyed by one request.
	want[1] = "snapshot p/s/b@c kept: cannot be destroyed: busy"
	check(true, want)
	if d.calls != 1 {
		t.Errorf("%d requests", d.calls)
	}
	d.items, d.fails = []api.Item{{Name: "p/s/a"}}, errors.New("the pool is suspended")
	items, err := Collect(t.Context(), sources, true, quiet)
	if err == nil || !strings.Contains(err.Error(), "remove dataset p/s/a: ") || !strings.Contains(err.Error(), "the pool is suspended") || items[0].Action() != "failed" {
		t.Errorf("%+v, %v", items, err)
	}
}

// A daemon that is not there, or of a former version, is said, and keeps nothing else from being found.
func TestDatasetsWithoutDaemon(t *testing.T) {
	for address, hint := range map[string]string{
		filepath.Join(t.TempDir(), "none.sock"): "hint: systemctl start pvelxc-snapshotter.socket",
		serve(t, nil):                           "hint: it is of a former version: systemctl restart pvelxc-snapshotter",
	} {
		gone := false
		other := Source{Name: "others", Find: func(context.Context) ([]Item, error) {
			return []Item{{Kind: "cgroup", Name: "x", remove: func(context.Context) error { gone = true; return nil }}}, nil
		}}
		var told []string
		items, err := Collect(t.Context(), []Source{Datasets(address), other}, true, func(doing string, _ int) { told = append(told, doing) })
		if err == nil || !strings.HasPrefix(err.Error(), "datasets: ") || !strings.Contains(err.Error(), hint) {
			t.Errorf("error %v, want one with %q", err, hint)
		}
		if len(items) != 1 || !gone {
			t.Errorf("of another source: %+v, removed %t", items, gone)
		}
		if diff := cmp.Diff([]string{"looking through datasets", "looking through others", "removing cgroup x"}, told); diff != "" {
			t.Error(diff)
		}
	}
}

func TestRunningShims(t *testing.T) {
	proc := t.TempDir()
	for name, line := range map[string]string{
		"1":    "/usr/bin/pvelxc-shim\x00-namespace\x00k8s.io\x00-id\x00pod\x00-address\x00/run/c\x00serve\x00",
		"22":   "/opt/old/containerd-shim-pvelxc-v2\x00-namespace\x00default\x00-id\x00web\x00-debug\x00serve\x00",
		"3":    "/usr/bin/containerd-shim-runc-v2\x00-namespace\x00default\x00-id\x00other\x00",
		"4":    "",
		"self": "/usr/bin/pvelxc-shim\x00-namespace\x00x\x00-id\x00x\x00",
	} {
		if err := errors.Join(os.Mkdir(filepath.Join(proc, name), 0o755), os.WriteFile(filepath.Join(proc, name, "cmdline"), []byte(line), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(proc, "5"), 0o755); err != nil { // one that has just ended
		t.Fatal(err)
	}
	shims, err := runningShims(proc)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		namespace, id, sandbox string
		want                   bool
	}{
		{"k8s.io", "pod", "", true}, {"k8s.io", "app", "pod", true}, {"k8s.io", "app", "", false}, {"default", "pod", "pod", false},
		{"default", "web", "", true}, {"default", "other", "", false}, {"x", "x", "", false},
	} {
		if got := owned(shims, c.namespace, c.id, c.sandbox); got != c.want {
			t.Errorf("%+v: %t, of %v", c, got, shims)
		}
	}
}

// TestAbandoned: the sandbox of a shim that has gone is garbage once it is old enough; that of one that runs is not.
func TestAbandoned(t *testing.T) {
	root := t.TempDir()
	old := time.Now().Add(-time.Hour)
	for _, id := range []string{"gone", "held", "young"} {
		dir := layout.Sandbox(root, "k8s.io", id)
		if err := os.MkdirAll(filepath.Join(dir, "shm"), 0o700); err != nil {
			t.Fatal(err)
		}
		if id != "young" {
			if err := os.Chtimes(dir, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	items, err := abandoned(root, []shim{{"k8s.io", "held"}, {"default", "gone"}})
	if err != nil || len(items) != 1 || items[0].Name != layout.Sandbox(root, "k8s.io", "gone") {
		t.Fatalf("found %+v, %v", items, err)
	}
	if err := items[0].remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(layout.Sandbox(root, "*", "*"))
	if err != nil || len(left) != 2 || slices.Contains(left, items[0].Name) {
		t.Errorf("left: %v, %v", left, err)
	}
}
