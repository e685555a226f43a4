package program

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// withSanitizers are the flags of a build that ends at the first mistake.
var withSanitizers = []string{"-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"}

// waiting starts a monitor that waits for its container.
func waiting(t *testing.T, path string) (*Conn, *exec.Cmd) {
	t.Helper()
	conn, peer, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	cmd := exec.Command(path)
	cmd.ExtraFiles = []*os.File{peer}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return conn, cmd
}

// TestMonitorWithoutContainer: a monitor whose shim ends, ends.
func TestMonitorWithoutContainer(t *testing.T) {
	conn, cmd := waiting(t, monitorBinary(t, withSanitizers...))
	conn.Close()
	const notStarted = 70
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != notStarted {
		t.Errorf("exit: %v", err)
	}
}

// TestMonitorRefuses: what is no MSG_CONTAINER of this version is answered with the cause.
func TestMonitorRefuses(t *testing.T) {
	path := monitorBinary(t, withSanitizers...)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	four := []*os.File{null, null, null, null}
	text := func(parts ...string) []byte {
		var b []byte
		for _, p := range parts {
			b = append(append(order.AppendUint32(b, uint32(len(p))), p...), 0)
		}
		return b
	}
	good := text("n", "/p", "/c", "/e")
	for name, test := range map[string]struct {
		version uint32
		kind    MessageType
		strings []byte
		files   []*os.File
		want    string
	}{
		"version":      {Version + 1, MsgContainer, good, four, "another version"},
		"kind":         {Version, MsgGo, good, four, "another version"},
		"no files":     {Version, MsgContainer, good, nil, "not whole"},
		"three files":  {Version, MsgContainer, good, four[:3], "not whole"},
		"five files":   {Version, MsgContainer, good, append(four[:4:4], null), "not whole"},
		"no strings":   {Version, MsgContainer, nil, four, "malformed"},
		"three":        {Version, MsgContainer, text("n", "/p", "/c"), four, "malformed"},
		"cut off":      {Version, MsgContainer, good[:len(good)-1], four, "malformed"},
		"NUL inside":   {Version, MsgContainer, text("n", "/p", "/c", "/\x00e"), four, "malformed"},
		"long length":  {Version, MsgContainer, append([]byte{255, 255, 255, 255}, good[4:]...), four, "malformed"},
		"no such file": {Version, MsgContainer, text("n", t.TempDir(), "/nonexistent", "/e"), four, "does not accept"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, _ := waiting(t, path)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := conn.send(ctx, append(newMessage(test.kind, test.version), test.strings...), test.files); err != nil {
				t.Fatal(err)
			}
			msg, err := conn.Recv(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if msg.Type != MsgError || !strings.Contains(msg.Text, test.want) {
				t.Errorf("answer %d %q", msg.Type, msg.Text)
			}
		})
	}
}

// TestMonitorName: one that waits is known by its name, whatever it was executed by, and has nothing of the shim's.
func TestMonitorName(t *testing.T) {
	path := monitorBinary(t, withSanitizers...)
	fd, err := unix.Open(path, unix.O_PATH, 0) // one that leaks, as well
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_, cmd := waiting(t, "/proc/self/fd/"+strconv.Itoa(fd))
	deadline := time.Now().Add(30 * time.Second)
	for {
		comm, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/comm")
		fds, err2 := os.ReadDir("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/fd")
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if string(comm) == "pvelxc-monitor\n" && len(fds) == 5 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("name %q, %d descriptors", comm, len(fds))
		}
		time.Sleep(time.Millisecond)
	}
}
