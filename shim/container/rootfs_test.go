package container

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/internal/mounttree"
)

func TestParseOverlay(t *testing.T) {
	for _, test := range []struct {
		name    string
		options []string
		want    *overlayLayers
	}{
		{
			"a container", []string{"index=off", "userxattr", "workdir=/s/2/work", "upperdir=/s/2/fs", "lowerdir=/s/1/fs:/s/0/fs"},
			&overlayLayers{
				lower: []string{"/s/1/fs", "/s/0/fs"}, upper: "/s/2/fs", work: "/s/2/work",
				rest: []mounttree.Param{{Key: "index", Value: "off"}, {Key: "userxattr", Flag: true}},
			},
		},
		{"a view", []string{"lowerdir=/s/1/fs:/s/0/fs", "ro"}, &overlayLayers{lower: []string{"/s/1/fs", "/s/0/fs"}}},
		{"mapped by containerd", []string{"lowerdir=/a:/b", "uidmap=0:1:2"}, nil},
		{"upper and work apart", []string{"lowerdir=/a", "upperdir=/x/fs", "workdir=/y/work"}, nil},
		{"data-only layers", []string{"lowerdir=/a::/b"}, nil},
		{"escaped colon", []string{`lowerdir=/a\:b`}, nil},
		{"no layers", []string{"ro"}, nil},
	} {
		got := parseOverlay(test.options)
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(overlayLayers{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestHostID(t *testing.T) {
	ids := []specs.LinuxIDMapping{
		{ContainerID: 0, HostID: 100000, Size: 1000},
		{ContainerID: 2000, HostID: 5, Size: 1},
	}
	for id, want := range map[uint32]uint32{0: 100000, 999: 100999, 2000: 5} {
		if got, ok := hostID(ids, id); !ok || got != want {
			t.Errorf("id %d is %d, %v on the host; want %d", id, got, ok, want)
		}
	}
	for _, id := range []uint32{1000, 1999, 2001, 1<<32 - 1} {
		if got, ok := hostID(ids, id); ok {
			t.Errorf("id %d has no mapping, but is %d on the host", id, got)
		}
	}
}

func TestParseIDMap(t *testing.T) {
	got, err := parseIDMap("         0     100000      65536\n     65536          0          1\n")
	want := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}, {ContainerID: 65536, HostID: 0, Size: 1}}
	if err != nil || !cmp.Equal(want, got) {
		t.Errorf("map is %v, %v; want %v", got, err, want)
	}
	for _, bad := range []string{"0 1\n", "0 1 x\n", "0 1 4294967296\n", "-1 0 1\n"} {
		if _, err := parseIDMap(bad); err == nil {
			t.Errorf("map %q: no error", bad)
		}
	}
}

func FuzzParseIDMap(f *testing.F) {
	f.Add("0 100000 65536\n")
	f.Fuzz(func(t *testing.T, text string) { _, _ = parseIDMap(text) })
}

func FuzzParseOverlay(f *testing.F) {
	f.Add("lowerdir=/a:/b", "upperdir=/c/fs", "workdir=/c/work")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if l := parseOverlay([]string{a, b, c}); l != nil && l.top() == "" && l.upper == "" && l.lower[0] != "" {
			t.Errorf("layers without a top: %+v", l)
		}
	})
}
