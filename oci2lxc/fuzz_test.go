package oci2lxc

import (
	"bytes"
	"encoding/json"
	"errors"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// readConfig is a model of liblxc's parse_line (confile.c): what it would make of a
// config. Anything that Render should not have written is an error here.
func readConfig(t testing.TB, text []byte) Config {
	t.Helper()
	var c Config
	lines := strings.Split(string(text), "\n")
	if last := lines[len(lines)-1]; last != "" {
		t.Fatalf("the last line %q has no end", last)
	}
	for _, line := range lines[:len(lines)-1] {
		if strings.ContainsAny(line, "\r\x00") || !strings.HasPrefix(line, "lxc.") {
			t.Fatalf("line %q", line)
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			t.Fatalf("line %q has no value", line)
		}
		value = strings.Trim(value, " \t")
		if n := len(value); n > 1 && (value[0] == '\'' || value[0] == '"') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		c = append(c, Item{strings.TrimRight(key, " \t"), value})
	}
	return c
}

func FuzzQuote(f *testing.F) {
	for _, s := range []string{"", "a", " a", "a ", "'a'", `"a"`, `'a"`, "\ta\t", `"`, `""`, "a=b", "#a", "\\n", "a\nb", "\r", "\x00", "é "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := Config{{"lxc.rootfs.mount", s}, {"lxc.rootfs.managed", "0"}}
		b, err := c.Render()
		if strings.ContainsAny(s, "\n\r\x00") {
			if err == nil {
				t.Fatalf("%q was written: %q", s, b)
			}
			return
		}
		if err != nil {
			t.Fatalf("%q was refused: %v", s, err)
		}
		if d := cmp.Diff(c, readConfig(t, b)); d != "" {
			t.Errorf("(-written +read)\n%s", d)
		}
	})
}

func FuzzConvert(f *testing.F) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for i, file := range files {
		b, err := json.Marshal(loadGolden(f, file).spec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint8(i))
	}
	f.Fuzz(func(t *testing.T, config []byte, choice uint8) {
		var spec specs.Spec
		if json.Unmarshal(config, &spec) != nil {
			return
		}
		opts := baseOptions
		opts.SystemdCgroup = choice&1 != 0
		if choice&2 != 0 {
			opts.CgroupMode = CgroupHybrid
		}
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		if choice&4 != 0 {
			opts.Unprivileged = &IDMap{UIDs: ids, GIDs: ids}
		}
		if choice&8 != 0 {
			opts.JoinedIDMap = &IDMap{UIDs: ids, GIDs: ids}
		}
		opts.SELinux = choice&16 != 0
		opts.AppArmor = choice&32 != 0
		before := marshal(t, spec)
		plan, err := Convert(&spec, opts)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if !bytes.Equal(before, marshal(t, spec)) {
			t.Error("the specification was changed")
		}
		again, err := Convert(&spec, opts)
		if err != nil {
			t.Fatalf("the second time: %v", err)
		}
		if d := cmp.Diff(plan, again); d != "" {
			t.Errorf("two conversions differ: %s", d)
		}
		checkConfig(t, plan)
		checkPlan(t, plan)
		if spec.Process != nil {
			if _, _, err := ConvertProcess(spec.Process, &spec, opts); err != nil {
				t.Errorf("good for a create, and not for an exec: %v", err)
			}
		}
	})
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Skip("not a value of JSON")
	}
	return b
}

// checkRefusal holds an error to what callers rely on.
func checkRefusal(t *testing.T, err error) {
	t.Helper()
	var fe *FieldError
	if !errors.As(err, &fe) || fe.Field == "" || fe.Reason == "" {
		t.Fatalf("%v is no *FieldError", err)
	}
	if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
		t.Fatalf("%v has no class", err)
	}
	if strings.ContainsAny(err.Error(), "\n\r\x00") {
		t.Fatalf("%q: the message shows the input raw", err.Error())
	}
	if n := len(err.Error()); n > 200*maxFindings*5 {
		t.Fatalf("the message has %d bytes", n)
	}
}

// fixedValues are the values of the config that no specification may change, or all
// that they may be.
var fixedValues = map[string][]string{
	"lxc.log.file": {baseOptions.LogFile}, "lxc.log.level": {"WARN"}, "lxc.rootfs.managed": {"0"}, "lxc.ephemeral": {"0"},
	"lxc.autodev": {"0"}, "lxc.mount.auto": {""}, "lxc.tty.max": {"0"}, "lxc.pty.max": {"0"}, "lxc.console.path": {"none"},
	"lxc.keyring.session": {"0"}, "lxc.apparmor.profile": {"unconfined"}, "lxc.hook.version": {"1"},
	"lxc.hook.mount": {baseOptions.InitPath + " hook 3"}, "lxc.hook.post-stop": {"/bin/false"},
	"lxc.mount.entry": {"none dev tmpfs mode=755,create=dir 0 0"}, "lxc.signal.halt": {"SIGTERM"},
	"lxc.cgroup.relative": {"0"},
}

// checkConfig proves that a config reads back as it was meant, and that the
// specification reached no other values than those that must have something of it.
func checkConfig(t *testing.T, p *Plan) {
	t.Helper()
	b, err := p.Config.Render()
	if err != nil {
		t.Fatal(err)
	}
	if read := readConfig(t, b); !slices.Equal(p.Config, read) {
		t.Fatalf("(-meant +read)\n%s", cmp.Diff(p.Config, read))
	}
	for _, it := range p.Config {
		var ok bool
		switch key := it.Key; {
		case fixedValues[key] != nil:
			ok = slices.Contains(fixedValues[key], it.Value)
		case key == "lxc.rootfs.path":
			ok = it.Value == "dir:"+p.Rootfs.Path
		case key == "lxc.rootfs.mount":
			ok = it.Value == p.Rootfs.Path
		case key == "lxc.namespace.clone":
			ok = only(strings.NewReplacer("mnt", "", "pid", "", "ipc", "", "uts", "", "net", "", "user", "").Replace(it.Value), " ")
		case strings.HasPrefix(key, "lxc.namespace.share."):
			ok = cleanAbs(it.Value) && slices.Contains([]string{"pid", "ipc", "uts", "net", "user"}, key[len("lxc.namespace.share."):])
		case key == "lxc.idmap":
			ok = only(it.Value, "ug "+digits)
		case strings.HasPrefix(key, "lxc.cgroup.dir."):
			ok = it.Value != "" && it.Value[0] != '/' && !strings.Contains(it.Value, "..")
		}
		if !ok {
			t.Errorf("unexpected %s = %q", it.Key, it.Value)
		}
	}
}

// checkPlan holds a plan to what those who carry it out rely on.
func checkPlan(t *testing.T, p *Plan) {
	t.Helper()
	for i, typ := range namespaceTypes {
		if i >= len(p.Namespaces) || p.Namespaces[i].Type != typ {
			t.Fatalf("namespaces are %v", p.Namespaces)
		}
	}
	for _, m := range p.Mounts {
		d := m.Destination
		if d == "" || d[0] != '/' || path.Clean(d) != d {
			t.Errorf("destination %q", d)
		}
		if strings.HasPrefix(d, "/proc/") && !procFiles[d] || d == "/" && m.Kind != MountRemount {
			t.Errorf("a mount at %q", d)
		}
		if m.Propagation == 0 || m.Propagation&(m.Propagation-1) != 0 || m.Propagation&unix.MS_REC != 0 {
			t.Errorf("propagation %#x", m.Propagation)
		}
		if m.Kind == MountTree && !path.IsAbs(m.Source) {
			t.Errorf("source %q", m.Source)
		}
		if both := m.AttrSet & m.AttrClear &^ unix.MOUNT_ATTR__ATIME; both != 0 {
			t.Errorf("attributes %#x are set and cleared", both)
		}
	}
	for _, s := range p.Setup.Sysctls {
		if path.Clean("/"+s.Path) != "/"+s.Path {
			t.Errorf("sysctl %q", s.Path)
		}
	}
	if (p.Setup.Hostname != "" || p.Setup.Domainname != "") && p.Namespace(specs.UTSNamespace).Mode == NamespaceHost {
		t.Error("the host would be renamed")
	}
	if len(p.Process.Args) == 0 || p.Cgroup.Path == "" || p.Cgroup.Resources == nil {
		t.Error("an incomplete plan")
	}
	noNUL(t, "plan", reflect.ValueOf(*p))
}

// noNUL walks all strings but the annotations and the seccomp metadata, which are data
// and not arguments of system calls.
func noNUL(t *testing.T, at string, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		if strings.IndexByte(v.String(), 0) >= 0 {
			t.Errorf("%s = %q", at, v.String())
		}
	case reflect.Pointer:
		if !v.IsNil() {
			noNUL(t, at, v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			noNUL(t, at+"[]", v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if name != "Annotations" && name != "ListenerMetadata" {
				noNUL(t, at+"."+name, v.Field(i))
			}
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			noNUL(t, at+"{}", k)
			noNUL(t, at+"{}", v.MapIndex(k))
		}
	}
}

func FuzzMountOptions(f *testing.F) {
	for o := range attrOptions {
		f.Add(o + ",r" + o)
	}
	f.Add(`lowerdir=/a\,b:/c,context="a:b:s0:c1,c2",size=1m,=,x==y`)
	f.Add("rbind,rshared,noatime,nostrictatime,ridmap,tmpcopyup,remount,x-a=b")
	f.Fuzz(func(t *testing.T, s string) {
		one := parseMountOptions([]string{s})
		if both := one.own.set & one.own.clear &^ unix.MOUNT_ATTR__ATIME; both != 0 {
			t.Errorf("attributes %#x are set and cleared", both)
		}
		for _, a := range []attrs{one.own, one.tree} {
			if a.set&unix.MOUNT_ATTR__ATIME != 0 && a.clear&unix.MOUNT_ATTR__ATIME != unix.MOUNT_ATTR__ATIME {
				t.Errorf("an access time without its mask: set %#x, clear %#x", a.set, a.clear)
			}
		}
		if got := strings.Join(splitOption(s), ","); got != s {
			t.Errorf("split and joined: %q", got)
		}
		// One text and its parts mean the same.
		if d := cmp.Diff(one, parseMountOptions(splitOption(s)), cmp.AllowUnexported(mountOptions{}, attrs{})); d != "" {
			t.Error(d)
		}
		for _, p := range one.data {
			if p.Key == "" || p.Flag && p.Value != "" {
				t.Errorf("parameter %+v", p)
			}
		}
	})
}

func FuzzCgroupsPath(f *testing.F) {
	for _, s := range []string{"", "/", "/a/b", "a/../b", "..", "a.slice:p:n", "-.slice::x", "::", "a-b-c.slice:p:n", "/pvelxc.monitor/x", "a\nb", "a//b/"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, p string, systemd bool) {
		opts := baseOptions
		opts.SystemdCgroup = systemd
		c := newConverter(&specs.Spec{Linux: &specs.Linux{CgroupsPath: p}}, opts)
		c.cgroup()
		if err := c.err(); err != nil {
			checkRefusal(t, err)
			return
		}
		g := c.plan.Cgroup
		seen := map[string]bool{}
		for _, at := range []string{g.Path, g.Monitor, g.Pivot} {
			if at == "" || path.Clean("/"+at) != "/"+at || strings.Contains(at, "..") || strings.ContainsAny(at, "\n\r\x00") || seen[at] {
				t.Errorf("group %q", at)
			}
			seen[at] = true
		}
		if systemd && (!strings.HasSuffix(g.Scope, ".scope") || !strings.HasSuffix(g.Slice, ".slice") || strings.ContainsAny(g.Scope+g.Slice, "/ \n")) {
			t.Errorf("slice %q, scope %q", g.Slice, g.Scope)
		}
	})
}

func FuzzParseList(f *testing.F) {
	for _, s := range []string{"", "0", "0-3,7", "3-1", "-", ",", "1,", "99999999999999999999", " 1 , 2-3 ", "+1", "0x1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := parseList(s, maxNode)
		if err != nil {
			return
		}
		for i, n := range list {
			if n < 0 || n > maxNode || i > 0 && n <= list[i-1] {
				t.Fatalf("%q gives %v", s, list)
			}
		}
	})
}

func FuzzSysctlPath(f *testing.F) {
	for _, s := range []string{"net.ipv4.ip_forward", "net/ipv4/conf/eth0.1/x", "net.ipv4.conf.eth0/1.x", "a/../b", "a.//.b", ".", "/etc/passwd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, ok := sysctlPath(s)
		if ok && (p == "" || path.Clean("/"+p) != "/"+p || strings.IndexByte(p, 0) >= 0) {
			t.Errorf("%q gives %q", s, p)
		}
	})
}
