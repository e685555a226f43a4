package pve

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/pvelxc/pvelxc/pve/conf"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

func renderer(t testing.TB) *Registrar {
	t.Helper()
	dir := t.TempDir()
	r, err := New(Registrar{
		Root: filepath.Join(dir, "pve"), Local: true, Node: "n1", HostCPUs: "0-7", Tags: []string{"extra"},
		LockDir: filepath.Join(dir, "lock"), StateDir: filepath.Join(dir, "state"), LXCPath: filepath.Join(dir, "lxc"),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.host = host{memory: 64 << 30, swap: 8 << 30, cpus: "0-7"}
	return r
}

func TestRender(t *testing.T) {
	for _, test := range []struct {
		name  string
		guest Guest
		want  string
	}{
		{"a pod's container", Guest{
			Namespace: "k8s.io", ID: "abc", Name: "Web_0", Pod: "default/web-0", Container: "nginx", Image: "docker.io/library/nginx:1",
			Tags: []string{"k8s", "ns-default", "pod-web-0", "k8s"}, Rootfs: "/run/b/rootfs", RootfsSize: 8 << 30, Unprivileged: true,
			IDMap:      []IDMap{{false, 0, 100000, 65536}, {true, 0, 100000, 65536}},
			HaltSignal: "SIGQUIT",
			Limits:     Limits{Memory: 100<<20 + 1, CPUQuota: 150000, CPUPeriod: 100000, CPUWeight: 79, CPUs: "0-3,6"},
		}, `#**pod** ` + "`default/web-0`" + `  
#**container** ` + "`nginx`" + `  
#**image** ` + "`docker.io/library/nginx%3A1`" + `  
#**id** ` + "`k8s.io/abc`" + `  
#` + noteFooter + `
cmode: shell
cores: 2
cpulimit: 1.5
cpuunits: 79
hostname: web-0
lock: create
memory: 101
ostype: unmanaged
protection: 1
rootfs: /run/b/rootfs,size=8G
swap: 0
tags: k8s;ns-default;pod-web-0;extra
unprivileged: 1
lxc.group: pvelxc/n1/k8s.io/abc
lxc.signal.halt: SIGQUIT
lxc.idmap: u 0 100000 65536
lxc.idmap: g 0 100000 65536
lxc.cgroup2.cpuset.cpus: 0-3,6
`},
		{"nothing limited", Guest{Namespace: "a b", ID: "x/y", Rootfs: "/a,b", RootfsFallback: "/safe", Limits: Limits{Swap: Unlimited}}, `#**id** ` + "`a b/x/y`" + `  
#` + noteFooter + `
cmode: shell
hostname: ct
lock: create
memory: 65536
ostype: unmanaged
protection: 1
rootfs: /safe
swap: 8192
tags: extra
unprivileged: 0
lxc.group: pvelxc/n1/a%20b/x%2Fy
lxc.signal.halt: SIGTERM
lxc.cgroup2.cpuset.cpus: 0-7
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := renderer(t).render(test.guest)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(c.Bytes())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestRenderRefuses(t *testing.T) {
	r := renderer(t)
	for name, g := range map[string]Guest{
		"a rootfs that no conf can hold": {Namespace: "n", ID: "i", Rootfs: "/a,b"},
		"a fallback that is no better":   {Namespace: "n", ID: "i", Rootfs: "/a,b", RootfsFallback: "/c=d"},
		"a signal that is not one":       {Namespace: "n", ID: "i", Rootfs: "/a", HaltSignal: "TERM\nprotection: 0"},
		"a CPU list that is not one":     {Namespace: "n", ID: "i", Rootfs: "/a", Limits: Limits{CPUs: "all"}},
		"an empty mapping":               {Namespace: "n", ID: "i", Rootfs: "/a", IDMap: []IDMap{{}}},
	} {
		if _, err := r.render(g); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, want an invalid argument", name, err)
		}
	}
}

// proved fails unless PVE and we read of a written conf what was to be written.
func proved(t *testing.T, r *Registrar, g Guest, c *conf.Conf) {
	t.Helper()
	data := string(c.Bytes())
	theirs := pvetest.ParsePCT(data)
	if len(theirs.Warnings) > 0 {
		t.Fatalf("PVE warns: %q\n%s", theirs.Warnings, data)
	}
	if diff := cmp.Diff(data, theirs.Write()); diff != "" {
		t.Fatalf("PVE would write it otherwise (-ours +PVE's):\n%s", diff)
	}
	status, err := theirs.Status()
	if err != nil {
		t.Fatalf("pct list dies: %v\n%s", err, data)
	}
	ours, err := conf.Parse([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	owner, ok := ownerOf(ours)
	if want := (Owner{r.Node, g.Namespace, g.ID}); !ok || owner != want {
		t.Fatalf("the owner is read as %+v, want %+v", owner, want)
	}
	if got, want := ours.Description(), note(g); got != want {
		t.Fatalf("the note is read as %q, want %q", got, want)
	}
	if got := strings.TrimSuffix(theirs.Description, "\n"); got != note(g) {
		t.Fatalf("PVE reads the note as %q, want %q", got, note(g))
	}
	for key, want := range map[string]string{"hostname": Hostname(g.Name), "protection": "1", "lock": "create", "ostype": "unmanaged", "unprivileged": boolean(g.Unprivileged), "tags": tagList(g.Tags, r.Tags)} {
		if got, _ := ours.Get(key); got != want || theirs.Keys[key] != want {
			t.Fatalf("%s is read as %q, by PVE as %q, want %q", key, got, theirs.Keys[key], want)
		}
	}
	for _, key := range []string{"arch", "onboot", "template", "hookscript"} {
		if v, ok := theirs.Keys[key]; ok {
			t.Fatalf("%s: %s must not be there", key, v)
		}
	}
	value, _ := ours.Get("rootfs")
	root, err := conf.ParseRootfs(value)
	if err != nil || root.Path != g.Rootfs && root.Path != g.RootfsFallback || root.Size != max(g.RootfsSize, 0) {
		t.Fatalf("rootfs is read as %+v, %v; want %q or %q of %d", root, err, g.Rootfs, g.RootfsFallback, g.RootfsSize)
	}
	if root.Size > 0 && status.MaxDisk != root.Size && root.Size < 1<<52 { // PVE counts in floating point
		t.Fatalf("PVE shows a disk of %d, want %d", status.MaxDisk, root.Size)
	}
	if g.Limits.Memory > 0 && g.Limits.Memory <= r.host.memory && status.MaxMemory < g.Limits.Memory {
		t.Fatalf("PVE shows %d of memory, less than the limit %d", status.MaxMemory, g.Limits.Memory)
	}
	if theirs.Pending != nil || len(theirs.Snapshots) > 0 {
		t.Fatalf("there are sections:\n%s", data)
	}
}

// hostile is what names are made of here: PVE's syntax, and what is beyond ASCII.
var hostile = []string{"a", "Z", "9", "-", "_", ".", " ", "\n", "\r", "\t", "\x00", "\x7f", ":", "=", "#", "%", "%41", ";", ",", "/", "..", "[x]", "\n[pve:pending]\n",
	"\nprotection: 0\n", "lxc.rootfs.path = /", "snapstate: delete", "`", "<script>", "ü", "\u202e", "\u2028", "\xff", "\xc3", "😀", strings.Repeat("long", 80)}

func hostileString(rng *rand.Rand) string {
	var b strings.Builder
	for range rng.IntN(8) {
		b.WriteString(hostile[rng.IntN(len(hostile))])
	}
	return b.String()
}

func randomGuest(rng *rand.Rand) Guest {
	str := func() string { return hostileString(rng) }
	g := Guest{
		Namespace: "ns-" + str(), ID: fmt.Sprintf("id%d", rng.Uint32()) + str(), Name: str(), Pod: str(), Container: str(), Image: str(),
		Rootfs: "/run/" + str(), RootfsFallback: "/run/pvelxc/rootfs", RootfsSize: rng.Int64N(1 << 50), Unprivileged: rng.IntN(2) == 0,
		Limits: Limits{
			Memory: rng.Int64() - 1<<20, Swap: rng.Int64() - 2, CPUQuota: rng.Int64() - 1, CPUPeriod: rng.Int64N(1 << 20),
			CPUWeight: rng.Uint64() >> rng.IntN(64),
		},
	}
	if rng.IntN(2) == 0 {
		g.Limits.Memory >>= rng.IntN(62)
		g.Limits.CPUQuota >>= 40
		g.Limits.CPUs = fmt.Sprintf("%d-%d,%d", rng.IntN(8), 8+rng.IntN(8), 20+rng.IntN(500))
	}
	for range rng.IntN(6) {
		g.Tags = append(g.Tags, str())
	}
	if g.Unprivileged && rng.IntN(2) == 0 {
		g.IDMap = []IDMap{{false, 0, rng.Uint32(), 1 + rng.Uint32()>>1}, {true, rng.Uint32(), rng.Uint32(), 1}}
	}
	return g
}

// TestTenThousandGuests: whatever the pod is called, the conf parses back to the same
// values. Only a marker that is too long may be refused.
func TestTenThousandGuests(t *testing.T) {
	r := renderer(t)
	rng := rand.New(rand.NewPCG(1, 2))
	written := 0
	for written < 10000 {
		g := randomGuest(rng)
		c, err := r.render(g)
		if err != nil {
			if marker := r.owner(g.Namespace, g.ID).marker(); len(marker) <= 1024 || !errdefs.IsInvalidArgument(err) {
				t.Fatalf("%+v is refused: %v", g, err)
			}
			continue
		}
		proved(t, r, g, c)
		written++
	}
}

func FuzzGuest(f *testing.F) {
	for i, s := range hostile {
		f.Add(s, hostile[(i+1)%len(hostile)], s, s, s, s, "/r"+s, s, int64(i), int64(i)<<20, "0-1")
	}
	r := renderer(f)
	f.Fuzz(func(t *testing.T, namespace, id, name, pod, image, tag, rootfs, signal string, size, memory int64, cpus string) {
		g := Guest{
			Namespace: namespace, ID: id, Name: name, Pod: pod, Image: image, Tags: []string{tag, "k8s"}, Rootfs: rootfs, RootfsFallback: "/safe",
			HaltSignal: signal, RootfsSize: size % (1 << 52), Limits: Limits{Memory: memory, Swap: size, CPUs: cpus},
		}
		c, err := r.render(g)
		if err == nil && namespace != "" && id != "" {
			proved(t, r, g, c)
		}
	})
}

func TestHostname(t *testing.T) {
	for name, want := range map[string]string{
		"web-0": "web-0", "Web.Example_1": "web-example-1", "": "ct", "---": "ct", "ü": "ct", "-a-": "a",
		strings.Repeat("a", 80): strings.Repeat("a", 63), strings.Repeat("a", 62) + "-b": strings.Repeat("a", 62),
	} {
		if got := Hostname(name); got != want {
			t.Errorf("Hostname(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestTag(t *testing.T) {
	for name, want := range map[string]string{
		"k8s": "k8s", "ns-Default": "ns-default", "pod-web.0_a+b": "pod-web.0_a+b", "-a-": "a", ".+a.": "a", "_a": "_a", "---": "", "": "", "ü": "", "a b;c": "a-b-c",
		strings.Repeat("a", 80): strings.Repeat("a", 67),
	} {
		if got := Tag(name); got != want {
			t.Errorf("Tag(%q) = %q, want %q", name, got, want)
		}
	}
	var many []string
	for i := range 40 {
		many = append(many, fmt.Sprint("t", i))
	}
	if got := strings.Split(tagList(many, []string{"t0"}), ";"); len(got) != 32 || got[31] != "t31" {
		t.Errorf("of forty tags %q are left", got)
	}
}

func TestNoteValueStaysInItsCodeSpan(t *testing.T) {
	for value, want := range map[string]string{
		"docker.io/a:b": "docker.io/a:b", "a`b": "a'b", "a\nb\x00": "a\uFFFDb\uFFFD", "\u202egnp.exe": "\uFFFDgnp.exe", "a\u2028b\xff": "a\uFFFDb\uFFFD", "<b> ü": "<b> ü",
		strings.Repeat("x", 300): strings.Repeat("x", 256) + "…",
	} {
		if got := noteValue(value); got != want {
			t.Errorf("%q becomes %q, want %q", value, got, want)
		}
	}
}

func TestMarkerIsNobodyElses(t *testing.T) {
	for _, lines := range []string{
		"", "lxc.group: onboot", "lxc.group: pvelxc/", "lxc.group: pvelxc/a/b", "lxc.group: pvelxc/a/b/c/d", "lxc.group: pvelxc/a//c", "lxc.group: pvelxc/a/%zz/c",
		"lxc.group: pvelxc/a/b/c\nlxc.group: pvelxc/a/b/d", "[snap]\nlxc.group: pvelxc/a/b/c", "#lxc.group: pvelxc/a/b/c", "group: pvelxc/a/b/c",
	} {
		c, err := conf.Parse([]byte(lines))
		if err != nil {
			t.Fatal(err)
		}
		if o, ok := ownerOf(c); ok {
			t.Errorf("%q is taken for %v's", lines, o)
		}
	}
	c, err := conf.Parse([]byte("lxc.group: admins\nlxc.group = pvelxc/a/b/c\n"))
	if err != nil {
		t.Fatal(err)
	}
	if o, ok := ownerOf(c); !ok || o != (Owner{"a", "b", "c"}) {
		t.Errorf("beside an admin's group it is %v, %v", o, ok)
	}
}
