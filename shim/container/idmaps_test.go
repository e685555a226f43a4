package container

import (
	"os"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// TestIDMaps: a namespace for each map, however often it is asked for.
func TestIDMaps(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root to make user namespaces")
	}
	maps := new(idMaps)
	shifted := func(by uint32) *oci2lxc.IDMap {
		ids := []specs.LinuxIDMapping{{HostID: by, Size: 10}}
		return &oci2lxc.IDMap{UIDs: ids, GIDs: ids}
	}
	get := func(by uint32) *os.File {
		t.Helper()
		f, err := maps.userNS(shifted(by))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first := get(100000)
	if get(100000) != first {
		t.Error("the same map has two namespaces")
	}
	if get(200000) == first {
		t.Error("two maps have one namespace")
	}
	maps.close()
	if _, err := first.Stat(); err == nil {
		t.Error("a namespace outlives its use")
	}
	if f := get(100000); f == first {
		t.Error("a closed namespace was handed out")
	}
	maps.close()
}
