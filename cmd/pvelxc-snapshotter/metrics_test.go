package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"go.yaml.in/yaml/v3"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/fake"
)

// full are the metrics of a daemon on a model.
func full(t *testing.T, state, proc string) (*metrics, *snapshotter.Snapshotter, *fake.Backend) {
	t.Helper()
	raw, err := fake.New(t.TempDir(), "tank")
	if err != nil {
		t.Fatal(err)
	}
	m := newMetrics()
	b := zfs.Metered(raw, m.meter)
	sn, err := snapshotter.Open(t.Context(), snapshotter.Options{Root: "tank/pvelxc", Dir: t.TempDir(), Backend: b, Observe: m.observe})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sn.Close() })
	m.count(sn.Stats(), raw)
	m.registry.MustRegister(&inventory{
		counts: sn.Counts, proc: proc,
		root: func(ctx context.Context) (zfs.Info, error) { return raw.Stat(ctx, "tank/pvelxc") },
		pool: func() (string, error) { return state, nil },
	})
	return m, sn, raw
}

// process is one in a /proc, in a mount namespace of its own that has one mount.
func process(t *testing.T, proc, pid, command, mountinfo string) {
	t.Helper()
	dir := filepath.Join(proc, pid)
	err := errors.Join(os.MkdirAll(dir+"/ns", 0o755), os.Symlink("mnt:["+pid+"]", dir+"/ns/mnt"), os.WriteFile(dir+"/comm", []byte(command+"\n"), 0o600),
		os.WriteFile(dir+"/mountinfo", []byte(mountinfo+"\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
}

// gather gives the metrics by name.
func gather(t *testing.T, m *metrics) map[string]*dto.MetricFamily {
	t.Helper()
	l, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*dto.MetricFamily{}
	for _, f := range l {
		all[f.GetName()] = f
	}
	return all
}

func value(f *dto.MetricFamily) float64 {
	if f == nil || len(f.GetMetric()) != 1 {
		return -1
	}
	return f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
}

// What the metrics tell is what was done.
func TestMetrics(t *testing.T) {
	proc := t.TempDir()
	m, sn, b := full(t, "ONLINE", proc)
	ctx := t.Context()
	start := value(gather(t, m)[prefix+"txg_waits_total"])
	if start != 4 {
		t.Errorf("making the root waits for %v txgs, want 2 for it, 1 for the dataset below, 1 for the mark", start)
	}
	before := b.TXG()
	if _, err := sn.Prepare(ctx, "n/1/extract-1 a", ""); err != nil {
		t.Fatal(err)
	}
	if err := sn.Commit(ctx, "a", "n/1/extract-1 a"); err != nil {
		t.Fatal(err)
	}
	if _, err := sn.Prepare(ctx, "c", "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := sn.Prepare(ctx, "c", "a"); err == nil {
		t.Error("one key twice")
	}
	if got, want := value(gather(t, m)[prefix+"txg_waits_total"])-start, float64(b.TXG()-before); got != want {
		t.Errorf("%v txgs are told of, %v were waited for", got, want)
	}
	told := value(gather(t, m)[prefix+"txg_waits_total"])
	b.Inject(func(op, name string) error {
		if op == "clone" {
			return errors.ErrUnsupported
		}
		return nil
	})
	if _, err := sn.Prepare(ctx, "fails", "a"); err == nil {
		t.Error("a clone that fails")
	}
	b.Inject(nil)
	if got := value(gather(t, m)[prefix+"txg_waits_total"]); got != told {
		t.Errorf("what fails waits for %v txgs", got-told)
	}
	children, err := b.Children(ctx, "tank/pvelxc/s")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range children {
		b.SetBusy(c.Name, true)
	}
	if err := sn.Remove(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if err := sn.Cleanup(ctx); err != nil {
		t.Fatal(err)
	}
	c, err := sn.Counts(ctx)
	if err != nil || len(c.Busy) != 1 {
		t.Fatalf("busy: %v, %v", c.Busy, err)
	}
	process(t, proc, "1", "systemd", "30 1 0:40 / /home rw - zfs tank/home rw")
	process(t, proc, "4711", "backup", "31 1 0:41 / /mnt/root\\040fs rw - zfs "+c.Busy[0]+" rw")
	all := gather(t, m)
	holder := all[prefix+"busy_holder_info"]
	if value(holder) != 1 {
		t.Fatalf("holders: %v", holder)
	}
	for _, l := range holder.GetMetric()[0].GetLabel() {
		if want := map[string]string{"dataset": c.Busy[0], "pid": "4711", "command": "backup"}[l.GetName()]; l.GetValue() != want {
			t.Errorf("holder's %s is %q, want %q", l.GetName(), l.GetValue(), want)
		}
	}
	for name, want := range map[string]float64{
		"snapshots": 1, "datasets": 1, "spare_clones": 0, "tombstones": 1, "tombstones_busy": 1, "execs_total": 0, "pool_healthy": 1,
		"pool_available_bytes": 1 << 40, "leases_total": 0, "warm_hits_total": 0,
	} {
		if got := value(all[prefix+name]); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	found := map[string]uint64{}
	for _, s := range all[prefix+"operation_seconds"].GetMetric() {
		key := ""
		for _, l := range s.GetLabel() {
			key += l.GetValue() + " "
		}
		found[key] = s.GetHistogram().GetSampleCount()
	}
	if found["prepare ok "] != 2 || found["prepare error "] != 2 || found["commit ok "] != 1 || found["remove ok "] != 1 {
		t.Errorf("%v", found)
	}
}

// A pool that does not answer keeps nobody waiting: ZFS is not asked.
func TestMetricsOfASuspendedPool(t *testing.T) {
	m, _, b := full(t, "SUSPENDED", t.TempDir())
	b.Inject(func(op, name string) error {
		t.Errorf("%s %s", op, name)
		return errors.ErrUnsupported
	})
	all := gather(t, m)
	if value(all[prefix+"pool_healthy"]) != 0 || all[prefix+"pool_available_bytes"] != nil || value(all[prefix+"tombstones"]) != 0 {
		t.Errorf("%v", all)
	}
}

// The alerts and the dashboard ask for metrics and labels that there are.
func TestDashboards(t *testing.T) {
	m, _, _ := full(t, "ONLINE", t.TempDir())
	m.observe("commit", time.Second, nil)
	all := gather(t, m)
	known := []string{prefix + "busy_holder_info"}
	for name, f := range all {
		known = append(known, name)
		if f.GetType() == dto.MetricType_HISTOGRAM {
			known = append(known, name+"_bucket", name+"_count", name+"_sum")
		}
	}
	used := map[string]bool{}
	for _, file := range []string{"../../dist/prometheus/pvelxc-snapshotter.yml", "../../dist/grafana/pvelxc-snapshotter.json"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var tree any
		if strings.HasSuffix(file, ".json") {
			err = json.Unmarshal(raw, &tree)
		} else {
			err = yaml.Unmarshal(raw, &tree)
		}
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
		exprs := 0
		walk(tree, func(key, text string) {
			if key != "expr" {
				return
			}
			exprs++
			if strings.Count(text, "(") != strings.Count(text, ")") || strings.Count(text, "{") != strings.Count(text, "}") {
				t.Errorf("%s: brackets of %s", file, text)
			}
			for _, name := range regexp.MustCompile(prefix+`[a-z_]+`).FindAllString(text, -1) {
				used[name] = true
				if !slices.Contains(known, name) {
					t.Errorf("%s asks for %s, which there is not", file, name)
				}
			}
		})
		if exprs < 5 {
			t.Errorf("%s has %d expressions", file, exprs)
		}
	}
	for name := range all {
		if strings.HasPrefix(name, prefix) && !used[name] && !used[name+"_bucket"] && name != prefix+"busy_total" && name != prefix+"shared_total" && name != prefix+"pool_state_info" {
			t.Errorf("%s is on no dashboard", name)
		}
	}
}

// walk calls fn for every text in a tree, with the key it is under.
func walk(tree any, fn func(key, text string)) {
	switch v := tree.(type) {
	case map[string]any:
		for k, below := range v {
			if text, ok := below.(string); ok {
				fn(k, text)
			}
			walk(below, fn)
		}
	case []any:
		for _, below := range v {
			walk(below, fn)
		}
	}
}

type tuned []snapshotter.Tuning

func (l *tuned) Tune(t snapshotter.Tuning) error { *l = append(*l, t); return nil }

// A reload takes over what can change, and nothing from a file with an error.
func TestReload(t *testing.T) {
	file := t.TempDir() + "/snapshotter.toml"
	write := func(text string) {
		if err := os.WriteFile(file, []byte("version = 1\nroot = \"tank/pvelxc\"\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	c, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	var l tuned
	for _, text := range []string{"warm_clones = 3\nforeign_snapshots = \"destroy\"", "warm_clone = 4", "warm_layers = 0"} {
		write(text)
		reload(t.Context(), file, c, &l)
	}
	want := tuned{{WarmLayers: 4, WarmClones: 3, ForeignSnapshots: snapshotter.DestroyForeign}, {WarmLayers: 0, WarmClones: 1, ForeignSnapshots: snapshotter.KeepForeign}}
	if !slices.Equal(l, want) {
		t.Errorf("%+v, want %+v", l, want)
	}
	write("warm_clone = 4")
	if _, err := load(file); err == nil || !strings.Contains(err.Error(), "did you mean warm_clones?") {
		t.Errorf("a misspelt key: %v", err)
	}
}
