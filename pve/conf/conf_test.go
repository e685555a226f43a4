package conf_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/pvelxc/pvelxc/pve/conf"
)

// adminFile has what an admin's hand and PVE's own tools leave behind: odd
// spacing, doubled keys, junk, a pending change and snapshots that repeat our keys.
const adminFile = `# hand-made%3A note
#
cores:   2
hostname: db-1
memory: 512
junk line that PVE warns about
memory: 1024  
	
lxc.mount.entry = /srv srv none bind 0 0
lxc.group: pvelxc/n1/default/db
mp0: local:101/vm.raw,mp=/srv

[pve:pending]
memory: 2048

[before]
#snap
memory: 256
lxc.group: x
`

func parse(t *testing.T, text string) *conf.Conf {
	t.Helper()
	c, err := conf.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestParseKeepsEveryByte(t *testing.T) {
	for _, text := range []string{"", "\n", "a: 1", "a: 1\n\n", "\r\n", adminFile, adminFile + "\n\n", "[x", "#", "key:\n"} {
		if diff := cmp.Diff(text, string(parse(t, text).Bytes())); diff != "" {
			t.Errorf("%q changed (-want +got):\n%s", text, diff)
		}
	}
}

func TestReadsWhatPVEReads(t *testing.T) {
	c := parse(t, adminFile)
	if v, _ := c.Get("memory"); v != "1024" {
		t.Errorf("memory = %q: of two lines the last counts, and sections do not", v)
	}
	if _, ok := c.Get("junk"); ok {
		t.Error("junk is read as a key")
	}
	if v, ok := parse(t, "cores: snapstate: delete\n").Get("cores"); ok {
		t.Errorf("cores = %q: PVE takes the line for the state of a snapshot", v)
	}
	if diff := cmp.Diff([]string{"pvelxc/n1/default/db"}, c.Raw("lxc.group")); diff != "" {
		t.Error(diff)
	}
	if got, want := c.Description(), " hand-made: note\n"; got != want {
		t.Errorf("description = %q, want %q", got, want)
	}
	if diff := cmp.Diff([]string{"pve:pending", "before"}, c.Sections()); diff != "" {
		t.Error(diff)
	}
}

func TestPatchTouchesItsLineAlone(t *testing.T) {
	for _, test := range []struct {
		name   string
		patch  func(*conf.Conf) error
		change *strings.Replacer
	}{
		{"replace the line that counts", func(c *conf.Conf) error { return c.Set("memory", "64") }, strings.NewReplacer("memory: 1024  \n", "memory: 64\n")},
		{"equal value", func(c *conf.Conf) error { return c.Set("cores", "2") }, strings.NewReplacer()},
		{"insert in order", func(c *conf.Conf) error { return c.Set("lock", "create") }, strings.NewReplacer("hostname: db-1\n", "hostname: db-1\nlock: create\n")},
		{"insert last", func(c *conf.Conf) error { return c.Set("swap", "0") }, strings.NewReplacer("mp=/srv\n", "mp=/srv\nswap: 0\n")},
		{"insert first", func(c *conf.Conf) error { return c.Set("cmode", "console") }, strings.NewReplacer("cores:   2\n", "cmode: console\ncores:   2\n")},
		{"delete", func(c *conf.Conf) error { c.Delete("memory"); return nil }, strings.NewReplacer("memory: 512\n", "", "memory: 1024  \n", "")},
		{"delete what is absent", func(c *conf.Conf) error { c.Delete("lock"); return nil }, strings.NewReplacer()},
		{"raw replaced", func(c *conf.Conf) error { return c.SetRaw("lxc.group", "a", "b") }, strings.NewReplacer("lxc.group: pvelxc/n1/default/db\n", "lxc.group: a\nlxc.group: b\n")},
		{"raw added", func(c *conf.Conf) error { return c.SetRaw("lxc.signal.halt", "SIGTERM") }, strings.NewReplacer("mp=/srv\n", "mp=/srv\nlxc.signal.halt: SIGTERM\n")},
		{"raw removed", func(c *conf.Conf) error { return c.SetRaw("lxc.group") }, strings.NewReplacer("lxc.group: pvelxc/n1/default/db\n", "")},
		{"description", func(c *conf.Conf) error { c.SetDescription("x: 1\n"); return nil }, strings.NewReplacer("# hand-made%3A note\n#\n", "#x%3A 1\n")},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := parse(t, adminFile)
			if err := test.patch(c); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.change.Replace(adminFile[:strings.Index(adminFile, "[pve")])+adminFile[strings.Index(adminFile, "[pve"):], string(c.Bytes())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What says so already stays as it was written, and what is new goes before the gap of the first section.
func TestPatchOfOddFiles(t *testing.T) {
	for _, test := range []struct {
		name, text, want string
		patch            func(*conf.Conf) error
	}{
		{"equal raw value", "lxc.group  =  g\nmemory: 16\n", "lxc.group  =  g\nmemory: 16\n", func(c *conf.Conf) error { return c.SetRaw("lxc.group", "g") }},
		{"no key before a section", "#note\n\n[s1]\nmemory: 32\n", "#note\nmemory: 16\n\n[s1]\nmemory: 32\n", func(c *conf.Conf) error { return c.Set("memory", "16") }},
		{"no raw key before a section", "\n[s1]\n", "lxc.group: g\n\n[s1]\n", func(c *conf.Conf) error { return c.SetRaw("lxc.group", "g") }},
		{"a section of one letter is none", "[s]\nmemory: 32\n", "[s]\nmemory: 16\n", func(c *conf.Conf) error { return c.Set("memory", "16") }},
	} {
		c := parse(t, test.text)
		if err := test.patch(c); err != nil || string(c.Bytes()) != test.want {
			t.Errorf("%s: %v, %q, want %q", test.name, err, c.Bytes(), test.want)
		}
	}
	if v, _ := parse(t, "a_b1: c\n").Get("a_b1"); v != "c" {
		t.Errorf("a key with an underscore has %q", v)
	}
}

func TestPatchOfAFileWithoutFinalNewline(t *testing.T) {
	c := parse(t, "cores: 1")
	if err := errors.Join(c.Set("memory", "16"), c.SetRaw("lxc.group", "g")); err != nil {
		t.Fatal(err)
	}
	if got, want := string(c.Bytes()), "cores: 1\nmemory: 16\nlxc.group: g\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRefusesWhatItCannotProve(t *testing.T) {
	for _, kv := range [][2]string{
		{"arch", "amd64"}, {"template", "1"}, {"mp0", "/a,mp=/b"}, {"description", "x"}, {"", "x"},
		{"memory", "15"}, {"memory", "016"}, {"memory", "-1"}, {"memory", "16 "}, {"memory", ""}, {"memory", "1.5"}, {"memory", "9223372036854775807"},
		{"swap", "-1"}, {"cores", "0"}, {"cores", "8193"}, {"cpulimit", "1e3"}, {"cpulimit", ".5"}, {"cpulimit", "8193"}, {"cpulimit", "0x1"}, {"cpuunits", "500001"},
		{"hostname", "a_b"}, {"hostname", "-a"}, {"hostname", "a-"}, {"hostname", "a.b"}, {"hostname", strings.Repeat("a", 64)}, {"hostname", "a\nprotection: 0"},
		{"tags", "a b"}, {"tags", "-a"}, {"tags", "a;;b"}, {"tags", "A"}, {"tags", "ü"}, {"tags", "a\n"},
		{"lock", ""}, {"lock", "suspended"}, {"ostype", "debian"}, {"protection", "yes"}, {"unprivileged", "2"},
		{"rootfs", "/a,b"}, {"rootfs", "/a=b"}, {"rootfs", "a"}, {"rootfs", "/"}, {"rootfs", "/a/"}, {"rootfs", "/a//b"}, {"rootfs", "/a/../b"}, {"rootfs", "/a/."},
		{"rootfs", "/dev/sda"}, {"rootfs", "/a b"}, {"rootfs", "/a\nlock: x"}, {"rootfs", "/a,size="}, {"rootfs", "/a,size=0"}, {"rootfs", "/a,size=1P"},
		{"rootfs", "/a,size=9999999999T"}, {"rootfs", "/a,size=1G,ro=1"}, {"rootfs", "/a,shared=1"}, {"rootfs", "local:1/x"}, {"rootfs", "/a\"b"}, {"rootfs", "/ä"},
	} {
		if err := new(conf.Conf).Set(kv[0], kv[1]); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Set(%q, %q) = %v, want an invalid argument", kv[0], kv[1], err)
		}
	}
	for _, kv := range [][2]string{
		{"lxc.rootfs.path", "/x"}, {"lxc.environment", "A=b"}, {"lxc.mount.entry", "x"}, {"lxc.group", ""}, {"lxc.group", "a b"}, {"lxc.group", "a\nx"},
		{"lxc.signal.halt", "sigterm"}, {"lxc.signal.halt", "100"}, {"lxc.signal.halt", "SIGHUP; x"}, {"lxc.cgroup2.cpuset.cpus", ""}, {"lxc.cgroup2.cpuset.cpus", "0-"},
		{"lxc.cgroup2.cpuset.cpus", "0 1"}, {"lxc.idmap", "u 0 1 0"}, {"lxc.idmap", "x 0 1 1"}, {"lxc.idmap", "u 0 1 1 "},
	} {
		if err := new(conf.Conf).SetRaw(kv[0], kv[1]); !errdefs.IsInvalidArgument(err) {
			t.Errorf("SetRaw(%q, %q) = %v, want an invalid argument", kv[0], kv[1], err)
		}
	}
	for name, data := range map[string]string{"NUL": "a: \x00\n", "too big": strings.Repeat("x", conf.MaxSize+1)} {
		if _, err := conf.Parse([]byte(data)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, want an invalid argument", name, err)
		}
	}
}

func TestRootfsSize(t *testing.T) {
	for _, test := range []struct {
		size int64
		want string
	}{{0, "/r"}, {-1, "/r"}, {1, "/r,size=1"}, {1024, "/r,size=1K"}, {1536, "/r,size=1536"}, {8 << 30, "/r,size=8G"}, {8<<30 + 1024, "/r,size=8388609K"}, {3 << 50, "/r,size=3072T"}, {1<<63 - 1, "/r,size=9223372036854775807"}} {
		r := conf.Rootfs{Path: "/r", Size: test.size}
		if got := r.String(); got != test.want {
			t.Errorf("%d is written %q, want %q", test.size, got, test.want)
		}
		if test.size == 1<<63-1 {
			continue // more digits than any disk has
		}
		back, err := conf.ParseRootfs(r.String())
		if err != nil || back.Size != max(test.size, 0) {
			t.Errorf("%q is read as %v, %v", r, back, err)
		}
	}
}

func TestDigestIsPVEs(t *testing.T) {
	if got, want := conf.Digest([]byte("abc")), "a9993e364706816aba3e25717850c26c9cd0d89d"; got != want { // FIPS 180, appendix A.1
		t.Errorf("got %s, want %s", got, want)
	}
}
