package pidfd

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// child runs a shell script that ends when its standard input does.
func child(t *testing.T, script string) (cmd *exec.Cmd, fd *FD, release func()) {
	t.Helper()
	cmd = exec.Command("/bin/sh", "-c", "read x; "+script)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err = Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		fd.Close()
	})
	return cmd, fd, func() { _ = in.Close() }
}

// status waits for fd's in the background.
func status(t *testing.T, fd *FD) <-chan unix.WaitStatus {
	t.Helper()
	told := make(chan unix.WaitStatus, 1)
	go func() {
		status, known, err := fd.Status(context.Background())
		if known && err == nil {
			told <- status
		}
		close(told)
	}()
	return told
}

func keepsStatus(t *testing.T) {
	t.Helper()
	self, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	supported := false
	_ = self.conn.Control(func(fd uintptr) {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT | 1<<5} // PIDFD_INFO_SUPPORTED_MASK, since 6.18
		supported = unix.IoctlPidfdInfo(int(fd), &info) == nil && info.Supported_mask&unix.PIDFD_INFO_EXIT != 0
	})
	if !supported {
		t.Skip("skipped: the kernel keeps no exit status in a pidfd, or does not tell that it does (Linux 6.18)")
	}
}

// TestStatus: somebody else takes the status; the descriptor knows it all the same.
func TestStatus(t *testing.T) {
	keepsStatus(t)
	for script, want := range map[string]unix.WaitStatus{
		"exit 7":       7 << 8,
		"exit 0":       0,
		"kill -9 $$":   9,
		"kill -HUP $$": 1,
	} {
		t.Run(script, func(t *testing.T) {
			cmd, fd, release := child(t, script)
			told := status(t, fd)
			release()
			if err := fd.Ended(t.Context()); err != nil {
				t.Fatal(err)
			}
			select {
			case s := <-told:
				t.Errorf("status %#x of a zombie", s)
			default:
			}
			_ = cmd.Wait()
			if s, ok := <-told; !ok || s != want {
				t.Errorf("status %#x, %v, want %#x", s, ok, want)
			}
			// And again, of one that is long gone.
			if s, known, err := fd.Status(t.Context()); s != want || !known || err != nil {
				t.Errorf("again: %#x, %v, %v", s, known, err)
			}
			if err := fd.Signal(unix.SIGTERM); !errors.Is(err, unix.ESRCH) {
				t.Errorf("signal to the dead: %v", err)
			}
		})
	}
}

func TestContextEndsTheWait(t *testing.T) {
	_, fd, release := child(t, "exit 0")
	why := errors.New("enough")
	waits := map[string]func(context.Context) error{
		"ended":  fd.Ended,
		"status": func(ctx context.Context) error { _, _, err := fd.Status(ctx); return err },
	}
	for name, wait := range waits {
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- wait(ctx) }()
		select {
		case err := <-ended:
			t.Fatalf("%s of a live process: %v", name, err)
		case <-time.After(10 * time.Millisecond):
		}
		cancel(why)
		if err := <-ended; !errors.Is(err, why) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The descriptor is as good as before.
	release()
	if err := fd.Ended(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsTheWait(t *testing.T) {
	_, fd, _ := child(t, "exit 0")
	told := status(t, fd)
	fd.Close()
	if s, ok := <-told; ok {
		t.Errorf("status %#x of a live process", s)
	}
	if err := fd.Signal(unix.SIGTERM); !errors.Is(err, os.ErrClosed) {
		t.Errorf("signal through a closed descriptor: %v", err)
	}
}

func TestOpenNobody(t *testing.T) {
	cmd := exec.Command("/bin/true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(cmd.Process.Pid); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("a process that is gone: %v", err)
	}
}
