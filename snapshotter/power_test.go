package snapshotter_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pvelxc/pvelxc/snapshotter"
)

// TestPowerCut has the power fail, in the first boot of the VM ($VM_BOOT), and looks at what is left in the second. The
// databases are on the pool, as they are on a node whose root is ZFS.
func TestPowerCut(t *testing.T) {
	boot := os.Getenv("VM_BOOT")
	if boot == "" {
		t.Skip("needs VM_BOOT: a machine that may be switched off")
	}
	must := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	const histories = 8
	b := backend(t, "ioctl")
	dir := t.TempDir()
	state := func(i int) string { return fmt.Sprintf("%s/%d", dir, i) }
	root := func(i int) string { return fmt.Sprintf("suite/f%d", i) }
	if boot == "1" {
		must("zpool", "create", "-f", "-O", "mountpoint=none", "suite", os.Getenv("VM_POOL_DEVICE"))
		must("zfs", "create", "-o", "mountpoint=legacy", "suite/state")
		must("mount", "-t", "zfs", "suite/state", dir)
		var done atomic.Int32
		var all sync.WaitGroup
		for i := range histories {
			all.Go(func() {
				if err := os.Mkdir(state(i), 0o700); err != nil {
					t.Error(err)
					return
				}
				told, err := os.OpenFile(state(i)+"/told", os.O_CREATE|os.O_APPEND|os.O_WRONLY|os.O_SYNC, 0o600)
				if err != nil {
					t.Error(err)
					return
				}
				tell := func(line string) {
					if _, err := fmt.Fprintln(told, line); err != nil {
						t.Error(err)
					}
					// In the midst of all of them.
					if done.Add(1) == histories*int32(len(acts())) {
						if err := os.WriteFile("/proc/sysrq-trigger", []byte("b"), 0); err != nil {
							t.Error(err)
						}
					}
				}
				s, err := snapshotter.Open(quiet(t.Context()), snapshotter.Options{Root: root(i), Dir: state(i), Backend: b, WarmLayers: 1, WarmClones: 1})
				if err == nil {
					err = errors.Join(play(&history{quiet(t.Context()), s, t.TempDir()}, tell), s.Close())
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		t.Fatal("the power did not fail")
	}
	must("zpool", "import", "-f", "-d", "/dev", "suite")
	t.Cleanup(func() { must("zpool", "destroy", "-f", "suite") })
	must("mount", "-t", "zfs", "suite/state", dir)
	t.Cleanup(func() { must("umount", dir) })
	var under int
	for i := range histories {
		told := lines(t, state(i)+"/told")
		t.Logf("%d: %d lines, the last %q", i, len(told), told[len(told)-1])
		if n := len(told); n < 2*len(acts()) {
			under++
		}
		t.Run(fmt.Sprint(i), func(t *testing.T) { autopsy(t, &killed{b: b}, root(i), state(i), told) })
	}
	if under < histories/2 {
		t.Errorf("only %d histories were under way", under)
	}
}
