package setup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const k3sDir = "/var/lib/rancher/k3s/agent/etc/containerd"

// newK3s is a node of k3s, which makes containerd's configuration from its own and a template each time it starts.
func newK3s(t *testing.T, daemon, template, base string) *machine {
	t.Helper()
	m := newMachine(t, daemon)
	peers, err := os.Readlink(m.At("/bin/containerd"))
	m.must(err)
	m.must(os.MkdirAll(filepath.Dir(m.At("/var/lib/rancher/k3s/data/current/bin/containerd")), 0o755))
	m.must(os.Symlink(peers, m.At("/var/lib/rancher/k3s/data/current/bin/containerd")))
	m.must(m.Write("/etc/systemd/system/k3s.service", nil, 0o644))
	m.must(os.RemoveAll(m.At("/var/lib/kubelet"))) // k3s' own is elsewhere
	m.must(m.Write("/state/is-active.k3s.service", nil, 0o644))
	m.must(m.Write(k3sDir+"/config.toml", []byte(base), 0o644))
	m.must(m.Write("/state/base", []byte(base), 0o644))
	m.must(m.Write("/state/k3s", fmt.Appendf(nil, "#!/bin/sh\ncd %s\ncp %s config.toml\n[ ! -e %s ] || grep -v '{{ template \"base\"' %[3]s >>config.toml\n", m.At(k3sDir), m.At("/state/base"), template), 0o755))
	return m
}

var k3s = []struct{ daemon, template, base string }{
	{"1.7.35", "config.toml.tmpl", "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n"},
	{"2.4.2", "config-v3.toml.tmpl", "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n"},
}

// On k3s the template is edited, k3s is restarted and makes the configuration of it, and its own client runs the container.
func TestK3s(t *testing.T) {
	for _, c := range k3s {
		t.Run(c.daemon, func(t *testing.T) {
			m := newK3s(t, c.daemon, c.template, c.base)
			before := m.files()
			s := m.setup(options)
			ran, err := run1(t, s.Install(), false)
			m.must(err)
			if !strings.Contains(ran["hello"].Text, "900001") || !strings.HasPrefix(s.Next(), "kubectl apply") {
				t.Errorf("hello %+v, next %q", ran["hello"], s.Next())
			}
			for path, want := range map[string]string{k3sDir + "/" + c.template: `{{ template "base" . }}`, k3sDir + "/config.toml": "runtimes.runc"} {
				if text, err := m.Read(path); err != nil || !strings.Contains(text, want) || !strings.Contains(text, "io.containerd.pvelxc.v2") {
					t.Errorf("%s (%v):\n%s", path, err, text)
				}
			}
			if text, err := m.Read("/etc/containerd/config.toml"); err != nil || strings.Contains(text, "pvelxc") {
				t.Errorf("the other containerd's file was edited: %v\n%s", err, text)
			}
			if calls := m.calls("k3s ctr --address /run/k3s/containerd/containerd.sock --namespace pvelxc-install run"); len(calls) != 1 {
				t.Errorf("calls of k3s ctr: %q", calls)
			}
			if calls := m.calls("systemctl restart containerd"); len(calls) > 0 {
				t.Errorf("the other containerd was restarted: %q", calls)
			}
			ran, err = run1(t, m.setup(options).Install(), false)
			m.must(err)
			for name, e := range ran {
				if e.State != Already && name != "hello" {
					t.Errorf("a second run does %+v", e)
				}
			}
			_, err = run1(t, m.setup(Options{}).Uninstall(), false)
			m.must(err)
			after := m.files()
			for _, path := range []string{"/etc/pvelxc/config.toml.uninstalled", "/etc/pvelxc/snapshotter.toml.uninstalled", "/state/dataset"} {
				delete(after, path)
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("uninstalled, and not as before: %s", diff)
			}
		})
	}
}

// A container that does not run takes the template back, and k3s makes its configuration anew without it.
func TestK3sRollsBack(t *testing.T) {
	for _, c := range k3s {
		m := newK3s(t, c.daemon, c.template, c.base)
		m.must(m.Write("/state/fail", []byte("k3s ctr --address /run/k3s/containerd/containerd.sock --namespace pvelxc-install run\n"), 0o644))
		before := m.files()
		_, err := run1(t, m.setup(options).Install(), false)
		var failed *Failure
		if !errors.As(err, &failed) || failed.Step != "hello" || len(failed.Stuck) > 0 {
			t.Errorf("error %v, want one of hello", err)
		}
		if diff := cmp.Diff(before, m.files()); diff != "" {
			t.Errorf("left: %s", diff)
		}
	}
}
