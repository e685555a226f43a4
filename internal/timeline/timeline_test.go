package timeline

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestLXC(t *testing.T) {
	got, err := LXC(strings.NewReader("a line of nobody\n" +
		"lxc 905661 20261128045344.554 WARN     start - ../src/lxc/start.c:lxc_check_inherited:329 - Inherited fd 3\n" +
		"  and its second line\n" +
		"lxc 905661 20261128045345.001 ERROR    conf - ../src/lxc/conf.c:f:1 - Invalid argument\n" + strings.Repeat("x", 3*maxLine) + "\n" +
		"lxc 905661 20261128045346.000 INFO     a - b"))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 {
		t.Fatalf("%d entries, want 3", len(got))
	}
	got[1].Message = got[1].Message[:20]
	want := []Entry{
		{at(t, "2026-11-28T04:53:44.554Z"), "lxc", "warn", "start - ../src/lxc/start.c:lxc_check_inherited:329 - Inherited fd 3 and its second line"},
		{at(t, "2026-11-28T04:53:45.001Z"), "lxc", "error", "conf - ../src/lxc/co"},
		{at(t, "2026-11-28T04:53:46Z"), "lxc", "info", "a - b"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

const log = `time="2026-11-28T04:53:41.157Z" level=info msg=serving... address=/run/c0ffee.sock
time="2026-11-28T04:53:44.444446175Z" level=info msg="connecting to shim c0ffee" address="unix:///run/x" namespace=default protocol=ttrpc
time="2026-11-28T04:53:45Z" level=warning msg="container starts \"unregistered\"" id=c0ffee namespace=default runtime=io.containerd.pvelxc.v2 error="no quorum: c0ffee"
time="2026-11-28T04:53:46Z" level=warning msg="another namespace" id=c0ffee namespace=other
time="2026-11-28T04:53:46Z" level=warning msg="another container" id=c0ffee2 namespace=default
not logrus c0ffee
time="broken level=info msg="c0ffee"
`

func shimWant(t *testing.T) []Entry {
	return []Entry{
		{at(t, "2026-11-28T04:53:44.444446175Z"), "shim", "info", `connecting to shim c0ffee address="unix:///run/x" protocol="ttrpc"`},
		{at(t, "2026-11-28T04:53:45Z"), "shim", "warning", `container starts "unregistered" error="no quorum: c0ffee"`},
	}
}

func TestShim(t *testing.T) {
	got, err := Shim(strings.NewReader(log), "default", "c0ffee")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(shimWant(t), got); diff != "" {
		t.Error(diff)
	}
}

func TestJournal(t *testing.T) {
	var journal strings.Builder
	for line := range strings.Lines(log) {
		journal.WriteString(`{"MESSAGE":` + quote(strings.TrimSpace(line)) + `,"PRIORITY":"6"}` + "\n")
	}
	journal.WriteString("{\"MESSAGE\":[1,2,3]}\nno JSON\n")
	got, err := Journal(strings.NewReader(journal.String()), "default", "c0ffee")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(shimWant(t), got); diff != "" {
		t.Error(diff)
	}
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func TestSort(t *testing.T) {
	e := []Entry{{at(t, "2026-01-01T00:00:02Z"), "a", "", "2"}, {at(t, "2026-01-01T00:00:01Z"), "b", "", "1"}, {at(t, "2026-01-01T00:00:02Z"), "c", "", "3"}}
	Sort(e)
	if e[0].Message+e[1].Message+e[2].Message != "123" {
		t.Errorf("order %v", e)
	}
}

// Logs hold what containers say of themselves: no line may stop the reading or take long.
func FuzzShim(f *testing.F) {
	f.Add(log, "c0ffee")
	f.Add(`time="2026-11-28T04:53:45Z" msg="a\" id=x`, "x")
	f.Fuzz(func(t *testing.T, text, id string) {
		if _, err := Shim(strings.NewReader(text), "default", id); err != nil {
			t.Error(err)
		}
		if _, err := LXC(strings.NewReader(text)); err != nil {
			t.Error(err)
		}
		if _, err := Journal(strings.NewReader(text), "default", id); err != nil {
			t.Error(err)
		}
	})
}
