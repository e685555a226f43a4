package seccomp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func timeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// realCompiler builds pvelxc-seccomp once.
var realCompiler = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "seccomp")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, program)
	cmd := exec.Command("go", "build", "-o", path, "github.com/pvelxc/pvelxc/cmd/pvelxc-seccomp")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = errors.New(string(out))
	}
	return path, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := realCompiler(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// countingCompiler is a compiler that leaves a mark for each run.
func countingCompiler(t *testing.T) (path string, runs func() int) {
	t.Helper()
	compiler, err := realCompiler()
	if err != nil {
		t.Skipf("needs libseccomp's headers and a C compiler: %v", err)
	}
	dir := t.TempDir()
	path, marks := filepath.Join(dir, program), filepath.Join(dir, "marks")
	script := "#!/bin/sh\necho >>" + marks + "\nexec " + compiler + "\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, func() int {
		data, _ := os.ReadFile(marks)
		return len(data)
	}
}

var profile = &specs.LinuxSeccomp{
	DefaultAction: specs.ActAllow,
	Syscalls:      []specs.LinuxSyscall{{Names: []string{"reboot"}, Action: specs.ActErrno}},
}

func TestCompileOnce(t *testing.T) {
	path, runs := countingCompiler(t)
	dir := filepath.Join(t.TempDir(), "parent", "seccomp")
	first := &Compiler{Program: path, Dir: dir}
	want, err := first.Compile(timeout(t), profile)
	if err != nil {
		t.Fatal(err)
	}
	if len(want.Program) == 0 || len(want.Program)%InstructionSize != 0 {
		t.Fatalf("a program of %d bytes", len(want.Program))
	}
	again := func(c *Compiler, p *specs.LinuxSeccomp, wantRuns int) {
		t.Helper()
		got, err := c.Compile(timeout(t), p)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("another filter (-first +now):\n%s", diff)
		}
		if n := runs(); n != wantRuns {
			t.Errorf("%d runs of the compiler, want %d", n, wantRuns)
		}
	}
	withListener := *profile
	withListener.ListenerPath, withListener.ListenerMetadata = "/run/agent.sock", "x"
	again(first, profile, 1)
	again(first, &withListener, 1)
	again(&Compiler{Program: path, Dir: dir}, profile, 1) // another process

	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has mode %v, %v", info.Mode(), err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("files %v, %v, want one", files, err)
	}
	file := filepath.Join(dir, files[0].Name())
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}

	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	again(&Compiler{Program: path, Dir: dir}, profile, 2) // damaged: compiled again …
	again(&Compiler{Program: path, Dir: dir}, profile, 2) // … and repaired

	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	again(&Compiler{Program: path, Dir: dir}, profile, 3) // not private: not believed
}

func TestCompileOthersProfile(t *testing.T) {
	path, runs := countingCompiler(t)
	c := &Compiler{Program: path, Dir: filepath.Join(t.TempDir(), "seccomp")}
	first, err := c.Compile(timeout(t), profile)
	if err != nil {
		t.Fatal(err)
	}
	other := *profile
	other.DefaultAction = specs.ActLog
	second, err := c.Compile(timeout(t), &other)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(first.Program, second.Program) || runs() != 2 {
		t.Errorf("two profiles gave the same program, %d runs", runs())
	}
	// The compiler's file is part of the key: a new version compiles anew.
	now := time.Now().Add(time.Minute)
	if err := os.Chtimes(path, now, now); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Compile(timeout(t), profile); err != nil || runs() != 3 {
		t.Errorf("%v, %d runs after an upgrade, want 3", err, runs())
	}
}

// TestStoreIsBounded: a profile of each container's own must not fill the host's memory, nor drive out the
// profile that all use.
func TestStoreIsBounded(t *testing.T) {
	s := store{dir: filepath.Join(t.TempDir(), "seccomp")}
	frame, err := Encode(&Filter{Program: make([]byte, InstructionSize)})
	if err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Hour)
	age := func(key string) {
		t.Helper()
		past = past.Add(time.Second)
		if err := os.Chtimes(filepath.Join(s.dir, key), past, past); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 * kept {
		if i%kept == 1 && s.load("common") == nil {
			t.Fatalf("the frame that is in use is gone after %d others", i)
		}
		key := fmt.Sprint("own", i)
		if i == 0 {
			key = "common"
		}
		if err := s.save(key, frame); err != nil {
			t.Fatal(err)
		}
		if key != "common" {
			age(key)
		}
	}
	files, err := os.ReadDir(s.dir)
	if err != nil || len(files) != kept {
		t.Errorf("%d files (%v), want %d", len(files), err, kept)
	}
	if s.load(fmt.Sprint("own", 3*kept-1)) == nil || s.load("own1") != nil {
		t.Error("the latest frame is gone, or the oldest is there")
	}
}

func TestCompileErrors(t *testing.T) {
	compiler, err := realCompiler()
	if err != nil {
		t.Skipf("needs libseccomp's headers and a C compiler: %v", err)
	}
	dir := t.TempDir()
	_, err = (&Compiler{Program: compiler, Dir: dir}).Compile(timeout(t), &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_MAYBE"})
	if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "SCMP_ACT_MAYBE") {
		t.Errorf("a bad profile: %v", err)
	}
	_, err = (&Compiler{Program: filepath.Join(dir, "none"), Dir: dir}).Compile(timeout(t), profile)
	if !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), "hint:") {
		t.Errorf("no compiler: %v", err)
	}
	_, err = (&Compiler{Program: "/bin/true", Dir: dir}).Compile(timeout(t), profile)
	if !errors.Is(err, errFrame) {
		t.Errorf("a compiler that says nothing: %v", err)
	}
	ctx, cancel := context.WithCancel(timeout(t))
	cancel()
	if _, err = (&Compiler{Program: compiler, Dir: filepath.Join(dir, "x")}).Compile(ctx, profile); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}

func TestTooLong(t *testing.T) {
	_, err := Encode(&Filter{Program: make([]byte, (MaxInstructions+1)*InstructionSize)})
	if err == nil || !strings.Contains(err.Error(), "4097 instructions") {
		t.Errorf("%v", err)
	}
	if _, err := Encode(&Filter{Program: make([]byte, MaxInstructions*InstructionSize)}); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, filter := range []*Filter{
		{Program: make([]byte, 8)},
		{Program: bytes.Repeat([]byte("instruct"), 20), Flags: 8, Notify: true},
	} {
		frame, err := Encode(filter)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame[:len(frame)-sha256.Size])
	}
	f.Add([]byte{})
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, body []byte) {
		// A fuzzer finds no checksums: give it the right one.
		sum := sha256.Sum256(body)
		for _, data := range [][]byte{body, append(bytes.Clone(body), sum[:]...)} {
			filter, err := Decode(data)
			if err != nil {
				continue
			}
			frame, err := Encode(filter)
			if err != nil {
				t.Fatalf("decoded, but cannot be encoded: %v", err)
			}
			if !bytes.Equal(frame, data) {
				t.Fatalf("two frames for one filter: %q and %q", data, frame)
			}
		}
	})
}

func TestSendListener(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	agent, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	state := specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: 4711,
		// Larger than a socket's buffer: it takes more than one write.
		Metadata: strings.Repeat("m", 1<<20),
		State:    specs.State{ID: "c1", Status: specs.StateCreating, Bundle: "/b"},
	}
	sent := make(chan error, 1)
	go func() { sent <- SendListener(timeout(t), path, state, writer) }()
	conn, err := agent.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buffer, oob := make([]byte, 4096), make([]byte, 128)
	n, oobn, _, _, err := conn.ReadMsgUnix(buffer, oob)
	if err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	var got specs.ContainerProcessState
	if err := json.Unmarshal(append(buffer[:n], rest...), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(state, got); diff != "" {
		t.Errorf("state (-sent +got):\n%s", diff)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		t.Fatalf("control messages %v, %v", messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors %v, %v", fds, err)
	}
	received := os.NewFile(uintptr(fds[0]), "received")
	writer.Close()
	if _, err := received.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	received.Close()
	if text, err := io.ReadAll(reader); err != nil || string(text) != "hello" {
		t.Errorf("through the descriptor: %q, %v", text, err)
	}
}

func TestSendListenerNobodyListens(t *testing.T) {
	err := SendListener(timeout(t), filepath.Join(t.TempDir(), "none"), specs.ContainerProcessState{}, os.Stdin)
	if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "hint:") {
		t.Errorf("%v", err)
	}
}

// TestSendListenerThatNeverReads: an agent that hangs must not hang the container.
func TestSendListenerThatNeverReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	agent, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	ctx, cancel := context.WithCancel(context.Background()) // no deadline: only the cancel ends it
	done := make(chan error, 1)
	go func() {
		done <- SendListener(ctx, path, specs.ContainerProcessState{Metadata: strings.Repeat("m", 8<<20)}, os.Stdin)
	}()
	conn, err := agent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	select {
	case err := <-done:
		if err == nil {
			t.Error("sent 8 MB to an agent that does not read")
		}
	case <-time.After(30 * time.Second):
		t.Error("still sending after its context has ended")
	}
}
