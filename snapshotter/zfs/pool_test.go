package zfs_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

func TestCheckPool(t *testing.T) {
	proc := t.TempDir()
	for state, want := range map[string]error{"ONLINE": nil, "DEGRADED": nil, "SUSPENDED": zfs.ErrSuspended, "FAULTED": zfs.ErrSuspended} {
		dir := filepath.Join(proc, "spl/kstat/zfs", state)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(dir+"/state", []byte(state+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
		if err := zfs.CheckPool(proc, state); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%s: %v", state, err)
		}
	}
	if err := zfs.CheckPool(proc, "none"); !zfs.IsNotExist(err) {
		t.Errorf("a pool that is not there: %v", err)
	}
}
