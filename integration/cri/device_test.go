package cri

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestDevices: a device of the host's, under another name and with the permissions that were asked for.
func TestDevices(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		for name, change := range map[string]func(*cri.NamespaceOption){"host's users": func(*cri.NamespaceOption) {}, "user namespace": withUserNamespace} {
			t.Run(name, func(t *testing.T) {
				// There are no new nodes in a user namespace, only the host's.
				full := map[bool]string{true: "/dev/full", false: "/dev/nothing"}[name == "user namespace"]
				c := e.pod(t, namespaces(change)).sleeper(t, func(c *cri.ContainerConfig) {
					c.Devices = []*cri.Device{
						{HostPath: "/dev/full", ContainerPath: full, Permissions: "rw"},
						{HostPath: "/dev/loop-control", ContainerPath: "/dev/loop-control", Permissions: "r"},
					}
				})
				equal(t, "write to "+full, c.exec(t, "test -c "+full+" && echo x 2>/dev/null > "+full+" || echo full"), "full")
				if name != "user namespace" { // its root may not open what only the host's root may
					equal(t, "/dev/loop-control", c.exec(t, "head -c 0 /dev/loop-control && echo open; cat /dev/null 2>&1 >> /dev/loop-control | grep -o 'not permitted'"), "open\nnot permitted")
				}
			})
		}
	})
}

// cdi is a CDI specification: a device with a node, a variable, a mount and a hook.
const cdi = `{
  "cdiVersion": "0.6.0", "kind": "pvelxc.test/thing",
  "devices": [{"name": "one", "containerEdits": {
    "env": ["THING=one"],
    "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/full", "permissions": "rw"}],
    "mounts": [{"hostPath": %q, "containerPath": "/thing", "options": ["ro", "bind"]}],
    "hooks": [{"hookName": "createContainer", "path": "/bin/sh", "args": ["sh", "-c", "cat > %s"]}]
  }}]
}`

// TestCDI: what a CDI specification says of a device is in the container.
func TestCDI(t *testing.T) {
	everywhere(t, func(t *testing.T, e *env) {
		dir := e.dir(t)
		state := filepath.Join(e.dir(t), "state")
		if err := os.WriteFile(filepath.Join(dir, "driver"), []byte("driver\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(e.CDIDir(), 0o755); err != nil {
			t.Fatal(err)
		}
		spec := filepath.Join(e.CDIDir(), "thing.json")
		text := strings.Replace(strings.Replace(cdi, "%q", `"`+dir+`"`, 1), "%s", state, 1)
		if err := os.WriteFile(spec, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(spec) })
		p := e.pod(t)
		wanted := func(name string) containerOption {
			return func(c *cri.ContainerConfig) { c.CDIDevices = []*cri.CDIDevice{{Name: "pvelxc.test/thing=" + name}} }
		}
		got := p.output(t, "echo $THING; cat /thing/driver; echo x 2>/dev/null > /dev/thing || echo full", wanted("one"))
		equal(t, "output", got, "one\ndriver\nfull")
		data, err := os.ReadFile(state)
		if err != nil || !strings.Contains(string(data), `"status"`) {
			t.Errorf("the hook was told %q, %v", data, err)
		}
		_, err = p.tryCreate("true", wanted("two"))
		mustFail(t, "a device that is not there", err, "pvelxc.test/thing=two")
	})
}
