package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/internal/config"
)

// placeEnv makes the test binary a shim of its own, whose process may be changed.
const placeEnv = "PVELXC_TEST_PLACE"

func TestMain(m *testing.M) {
	if os.Getenv(placeEnv) == "" {
		os.Exit(m.Run())
	}
	if err := takeCookie(); err != nil {
		fmt.Print(err)
		os.Exit(1)
	}
}

// takeCookie lets place give this process a cookie, and looks for it in another thread.
func takeCookie() error {
	if err := place(config.Default()); err != nil {
		return err
	}
	runtime.LockOSThread()
	found := make(chan uint64)
	go func() {
		runtime.LockOSThread()
		var cookie uint64
		_, _, _ = unix.Syscall6(unix.SYS_PRCTL, unix.PR_SCHED_CORE, unix.PR_SCHED_CORE_GET, 0,
			unix.PR_SCHED_CORE_SCOPE_THREAD, uintptr(unsafe.Pointer(&cookie)), 0)
		found <- cookie
	}()
	if <-found == 0 {
		return errors.New("a thread has no cookie")
	}
	return nil
}

// Where the kernel or the processor cannot, the container is refused, and not run beside others.
func TestCoreScheduling(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = []string{placeEnv + "=1", schedCoreEnv + "=1"}
	out, err := cmd.Output()
	t.Logf("%v: %s", err, out)
	if err != nil && (!strings.HasPrefix(string(out), "core scheduling: ") || !strings.Contains(string(out), "CONFIG_SCHED_CORE")) {
		t.Errorf("%v: %q", err, out)
	}
}

func TestShimCgroupMissing(t *testing.T) {
	conf := config.Default()
	conf.Runtime.ShimCgroup = "/pvelxc-test-there-is-none"
	if err := place(conf); !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), "shim_cgroup") {
		t.Errorf("got %v", err)
	}
}
