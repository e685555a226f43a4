package program

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stage does what liblxc does before it starts init: the root becomes "/", all
// mounts become shared.
func stage(root string) error {
	runtime.LockOSThread()
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind root: %w", err)
	}
	if os.Getenv(stageEnv+"_HOOK") != "" {
		hook := exec.Command("/proc/self/fd/4", "hook", "3")
		hook.ExtraFiles = []*os.File{os.NewFile(3, "shim")}
		hook.Stderr = os.Stderr
		if err := hook.Run(); err != nil {
			return fmt.Errorf("hook: %w", err)
		}
	} else if os.Getenv(stageEnv+"_NOPROC") == "" {
		if err := unix.Mount("proc", root+"/proc", "proc", 0, ""); err != nil {
			return fmt.Errorf("mount proc: %w", err)
		}
	}
	for line := range strings.Lines(os.Getenv(stageEnv + "_MOUNTS")) {
		f := strings.Fields(line) // type source destination
		if len(f) == 0 {
			continue
		}
		if err := os.MkdirAll(root+f[2], 0o755); err != nil {
			return err
		}
		if f[0] == "slave" { // of another mount of the root
			if err := errors.Join(
				unix.Mount("", root+f[1], "", unix.MS_SHARED, ""),
				unix.Mount(root+f[1], root+f[2], "", unix.MS_BIND, ""),
				unix.Mount("", root+f[2], "", unix.MS_SLAVE, ""),
			); err != nil {
				return err
			}
			continue
		}
		if err := unix.Mount(f[1], root+f[2], f[0], map[string]uintptr{"bind": unix.MS_BIND}[f[0]], ""); err != nil {
			return fmt.Errorf("mount %s: %w", line, err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share: %w", err)
	}
	if _, err := unix.Setsid(); err != nil {
		return fmt.Errorf("setsid: %w", err)
	}
	signal.Ignore(unix.SIGHUP, unix.SIGUSR1)
	return execFD(4, []string{"pvelxc-init", "init", "3"}, []string{"container=lxc"})
}

// execFD executes a descriptor, also where /proc is not what it should be.
func execFD(fd int, args, env []string) error {
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return err
	}
	envv, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return err
	}
	empty := []byte{0}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&empty[0])),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
	return errno
}

// newRoot makes a root filesystem with busybox and its applets.
func newRoot(t testing.TB) string {
	t.Helper()
	root, err := os.MkdirTemp("", "pvelxc-root-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "etc", "proc", "dev", "tmp", "usr", "var"} {
		mkdir(t, filepath.Join(root, d))
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, root+"/bin/busybox", string(busybox), 0o755)
	for _, a := range strings.Fields("sh cat ls stat id grep mount sleep echo readlink tty stty pwd env true umask ps cut awk hostname dnsdomainname touch sync sysctl ionice wc") {
		if err := os.Symlink("busybox", root+"/bin/"+a); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t testing.TB, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
