package stdio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/shim/reaper"
)

const patience = 30 * time.Second

// TestMain doubles as the logger program of the tests.
func TestMain(m *testing.M) {
	if os.Getenv("CONTAINER_ID") != "" && os.Getenv("CONTAINER_NAMESPACE") != "" {
		runLogger()
	}
	os.Exit(m.Run())
}

// hang blocks for ever. Without something to wait for the Go runtime would take it for a deadlock, and end the
// program, in builds without cgo.
func hang() {
	never := make(chan os.Signal, 1)
	signal.Notify(never, unix.SIGUSR2)
	<-never
}

// runLogger writes what it reads to files in the directory its first argument names.
func runLogger() {
	mode, dir := os.Args[1], os.Args[2]
	ready := os.NewFile(5, "ready")
	switch mode {
	case "crash":
		os.Exit(1)
	case "hang":
		hang()
	}
	if mode == "late" {
		_, _ = ready.Write([]byte{0})
		for _, err := os.Stat(filepath.Join(dir, "go")); err != nil; _, err = os.Stat(filepath.Join(dir, "go")) {
			time.Sleep(time.Millisecond)
		}
	}
	done := make(chan error)
	for fd, name := range map[uintptr]string{3: "stdout", 4: "stderr"} {
		go func() {
			data, err := io.ReadAll(os.NewFile(fd, name))
			done <- errors.Join(err, os.WriteFile(filepath.Join(dir, name), data, 0o600))
		}()
	}
	_, _ = ready.Write([]byte{0})
	_ = ready.Close()
	err := errors.Join(<-done, <-done)
	identity := os.Getenv("CONTAINER_NAMESPACE") + "/" + os.Getenv("CONTAINER_ID")
	err = errors.Join(err, os.WriteFile(filepath.Join(dir, "identity"), []byte(identity), 0o600))
	if mode == "linger" {
		hang()
	}
	if err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func loggerURI(t *testing.T, scheme, mode, dir string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s://%s?%s=%s", scheme, self, mode, dir)
}

// noLeaks fails the test when it leaves goroutines or descriptors behind.
func noLeaks(t *testing.T) {
	t.Helper()
	_, _ = reaper.Run(t.Context(), exec.Command("true")) // starts what the process keeps
	fds, goroutines := openFDs(t), runtime.NumGoroutine()
	t.Cleanup(func() {
		var nowFDs, nowGoroutines int
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			nowFDs, nowGoroutines = openFDs(t), runtime.NumGoroutine()
			if nowFDs <= fds && nowGoroutines <= goroutines {
				return
			}
		}
		stacks := make([]byte, 1<<20)
		t.Errorf("left behind: %d fds (were %d), %d goroutines (were %d)\n%s", nowFDs, fds, nowGoroutines, goroutines,
			stacks[:runtime.Stack(stacks, true)])
	})
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// fifos makes the FIFOs a containerd client makes.
func fifos(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	config := Config{ID: "c1", Namespace: "ns", Stdin: dir + "/in", Stdout: dir + "/out", Stderr: dir + "/err"}
	for _, path := range []string{config.Stdin, config.Stdout, config.Stderr} {
		if err := unix.Mkfifo(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return config
}

// collect reads path as a client does, until its end.
func collect(t *testing.T, path string) func() string {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Until a writer comes, reads of a FIFO end at once: have one until the IO is open.
	writer, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	text := make(chan string, 1)
	go func() {
		defer file.Close()
		data, _ := io.ReadAll(file)
		text <- string(data)
	}()
	return func() string {
		t.Helper()
		_ = writer.Close()
		select {
		case s := <-text:
			return s
		case <-time.After(patience):
			t.Fatalf("no end of %s", path)
			return ""
		}
	}
}

func open(t *testing.T, config Config) *IO {
	t.Helper()
	streams, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(streams.Close)
	return streams
}

// start runs a shell on the streams.
func start(t *testing.T, streams *IO, script string) <-chan reaper.Exit {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	child := streams.Child()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = child.Stdin, child.Stdout, child.Stderr
	exits, err := reaper.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	streams.Start()
	if err := streams.Feed(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan reaper.Exit, 1)
	go func() {
		exit := <-exits
		_ = reaper.Release(cmd)
		streams.Exited()
		gone <- exit
	}()
	return gone
}

func await(t *testing.T, exits <-chan reaper.Exit) reaper.Exit {
	t.Helper()
	select {
	case exit := <-exits:
		return exit
	case <-time.After(patience):
		t.Fatal("the process did not end")
		return reaper.Exit{}
	}
}

func drain(t *testing.T, streams *IO) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := streams.Drain(ctx); err != nil {
		t.Error(err)
	}
}

func TestFIFOs(t *testing.T) {
	noLeaks(t)
	config := fifos(t)
	stdout, stderr := collect(t, config.Stdout), collect(t, config.Stderr)
	streams := open(t, config)
	writer := writer(t, config.Stdin)()
	gone := start(t, streams, "cat; echo problem >&2; exit 5")
	text := strings.Repeat("0123456789abcdef\n", 20_000) // more than all pipes on the way hold
	if _, err := io.WriteString(writer, text); err != nil {
		t.Fatal(err)
	}
	_ = writer.Close()
	streams.CloseStdin()
	streams.CloseStdin()
	if exit := await(t, gone); exit.Code() != 5 {
		t.Errorf("exit status %d, want 5", exit.Code())
	}
	// Clients wait for the end of the streams before they delete the task: it must come without Drain and Close.
	if diff := cmp.Diff(text, stdout()); diff != "" {
		t.Errorf("stdout (-want +got):\n%s", diff)
	}
	if got := stderr(); got != "problem\n" {
		t.Errorf("stderr %q", got)
	}
	drain(t, streams)
	streams.Close()
	streams.Close()
}

// TestInputSurvivesClients: a client may detach and another attach; only CloseIO ends the process's input.
func TestInputSurvivesClients(t *testing.T) {
	noLeaks(t)
	config := fifos(t)
	stdout := collect(t, config.Stdout)
	streams := open(t, config)
	client := writer(t, config.Stdin)()
	gone := start(t, streams, "exec cat")
	for _, line := range []string{"first\n", "second\n"} {
		_, _ = io.WriteString(client, line)
		_ = client.Close()
		client = writer(t, config.Stdin)()
	}
	_ = client.Close()
	streams.CloseStdin()
	await(t, gone)
	if got := stdout(); got != "first\nsecond\n" {
		t.Errorf("stdout %q", got)
	}
}

// writer opens an input as clients do: before there is a reader.
func writer(t *testing.T, path string) func() *os.File {
	t.Helper()
	opened := make(chan *os.File, 1)
	go func() {
		file, err := os.OpenFile(path, os.O_WRONLY, 0) // blocks
		if err != nil {
			t.Error(err)
		}
		opened <- file
	}()
	return func() *os.File { return <-opened }
}

// TestShortInput: the client has come and gone before the process starts, and nobody will ever call CloseIO.
func TestShortInput(t *testing.T) {
	finish := func(text string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			file := writer(t, path)()
			_, _ = io.WriteString(file, text)
			_ = file.Close()
		}
	}
	for name, row := range map[string]struct {
		client func(t *testing.T, path string)
		want   string
	}{
		"never came": {func(*testing.T, string) {}, ".\n"},
		"nothing":    {finish(""), ".\n"},
		"one line":   {finish("one line"), "one line.\n"},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			config := fifos(t)
			stdout := collect(t, config.Stdout)
			streams := open(t, config)
			row.client(t, config.Stdin)
			await(t, start(t, streams, "cat; echo .; exec cat"))
			if got := stdout(); got != row.want {
				t.Errorf("stdout %q, want %q", got, row.want)
			}
		})
	}
}

// TestProcessWithoutReader: nobody reads the FIFOs; nothing blocks, and what fits is there for a late reader.
func TestProcessWithoutReader(t *testing.T) {
	noLeaks(t)
	config := fifos(t)
	streams := open(t, config)
	gone := start(t, streams, "echo early")
	await(t, gone)
	drain(t, streams)
	late, err := os.OpenFile(config.Stdout, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if data, err := io.ReadAll(late); err != nil || string(data) != "early\n" {
		t.Errorf("late reader got %q, %v", data, err)
	}
}

// TestReaderComesLate: a process that printed nothing has ended before its reader opens the FIFO, in the way that waits for a writer. The
// reader must be told of the end.
func TestReaderComesLate(t *testing.T) {
	noLeaks(t)
	config := fifos(t)
	streams := open(t, config)
	gone := start(t, streams, "exit 0")
	await(t, gone)
	drain(t, streams)
	for _, path := range []string{config.Stdout, config.Stderr} {
		got := make(chan error, 1)
		go func() {
			data, err := os.ReadFile(path)
			if len(data) > 0 {
				err = errors.Join(err, fmt.Errorf("read %q", data))
			}
			got <- err
		}()
		select {
		case err := <-got:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Fatalf("the reader of %s waits", filepath.Base(path))
		}
	}
}

// TestReaderDies: containerd restarts. The process must not get SIGPIPE, and a Drain whose reader is gone must end with its context.
func TestReaderDies(t *testing.T) {
	noLeaks(t)
	config := fifos(t)
	reader, err := os.OpenFile(config.Stdout, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	streams := open(t, config)
	gone := start(t, streams, "head -c 1000000 /dev/zero")
	buffer := make([]byte, 10)
	if _, err := io.ReadFull(reader, buffer); err != nil {
		t.Fatal(err)
	}
	_ = reader.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := streams.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drain without a reader: %v", err)
	}
	second := collect(t, config.Stdout)
	if exit := await(t, gone); exit.Code() != 0 {
		t.Errorf("exit status %d, want 0", exit.Code())
	}
	drain(t, streams)
	if got := len(second()); got != 1_000_000-10 {
		t.Errorf("the second reader got %d bytes", got)
	}
}

// TestCloseWhileHeld: a grandchild holds the streams open; Close must free everything nevertheless.
func TestCloseWhileHeld(t *testing.T) {
	noLeaks(t)
	config := fifos(t)
	streams := open(t, config)
	gone := start(t, streams, "(trap '' HUP; exec sleep 1000) & echo $! >"+config.Stdin+".pid")
	await(t, gone)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := streams.Drain(ctx); err == nil {
		t.Error("drained although the streams are open")
	}
	streams.Close()
	pid, err := os.ReadFile(config.Stdin + ".pid")
	if err != nil {
		t.Fatal(err)
	}
	var number int
	if _, err := fmt.Sscan(string(pid), &number); err != nil {
		t.Fatal(err)
	}
	_ = unix.Kill(number, unix.SIGKILL)
}

func TestNullStreams(t *testing.T) {
	noLeaks(t)
	streams := open(t, Config{ID: "c1", Namespace: "ns"})
	exit := await(t, start(t, streams, `cat && echo out && echo err >&2 && test $(stat -Lc %t:%T /proc/self/fd/0) = 1:3`))
	if exit.Code() != 0 {
		t.Errorf("exit status %d", exit.Code())
	}
	drain(t, streams)
}

func TestFile(t *testing.T) {
	for _, separate := range []bool{false, true} {
		t.Run(fmt.Sprintf("separate=%v", separate), func(t *testing.T) {
			noLeaks(t)
			dir := t.TempDir()
			out := filepath.Join(dir, "new", "log")
			config := Config{Stdout: "file://" + out, Stderr: "file://" + out}
			want := map[string]string{out: "out\nerr\n"}
			if separate {
				config.Stderr += ".err"
				want = map[string]string{out: "out\n", out + ".err": "err\n"}
			}
			streams := open(t, config)
			await(t, start(t, streams, "echo out; sleep 0.2; echo err >&2"))
			drain(t, streams)
			streams.Close()
			for path, text := range want {
				data, err := os.ReadFile(path)
				if err != nil || string(data) != text {
					t.Errorf("%s holds %q, %v", path, data, err)
				}
			}
			// A restart appends.
			streams = open(t, config)
			await(t, start(t, streams, "echo again"))
			drain(t, streams)
			if data, _ := os.ReadFile(out); !strings.HasSuffix(string(data), "\nagain\n") {
				t.Errorf("after a second run: %q", data)
			}
		})
	}
}

func TestLogger(t *testing.T) {
	for _, test := range []struct{ scheme, mode string }{{"binary", "run"}, {"binary-v2", "run"}, {"binary", "linger"}} {
		t.Run(test.scheme+" "+test.mode, func(t *testing.T) {
			noLeaks(t)
			dir := t.TempDir()
			uri := loggerURI(t, test.scheme, test.mode, dir)
			streams := open(t, Config{ID: "c1", Namespace: "ns", Stdout: uri, Stderr: uri})
			await(t, start(t, streams, "echo out; echo err >&2"))
			drain(t, streams)
			for name, text := range map[string]string{"stdout": "out\n", "stderr": "err\n", "identity": "ns/c1"} {
				data, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil || string(data) != text {
					t.Errorf("%s: %q, %v", name, data, err)
				}
			}
		})
	}
}

// What was written has been read before the exit is told.
func TestLoggerFlush(t *testing.T) {
	noLeaks(t)
	dir := t.TempDir()
	uri := loggerURI(t, "binary-v2", "late", dir)
	streams := open(t, Config{ID: "c1", Namespace: "ns", Stdout: uri, Stderr: uri})
	cmd := exec.Command("sh", "-c", "seq 1 1000; echo err >&2")
	cmd.Stdout, cmd.Stderr = streams.Child().Stdout, streams.Child().Stderr
	exits, err := reaper.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	streams.Start()
	await(t, exits)
	_ = reaper.Release(cmd)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := streams.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("flushed although nothing is read: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := streams.Flush(ctx); err != nil {
		t.Error(err)
	}
	streams.logger.mu.Lock()
	if !streams.logger.emptied() {
		t.Error("flushed although not all is read")
	}
	streams.logger.mu.Unlock()
	drain(t, streams)
}

func TestLoggerFailures(t *testing.T) {
	t.Run("crash", func(t *testing.T) {
		noLeaks(t)
		_, err := Open(t.Context(), Config{ID: "c1", Namespace: "ns", Stdout: loggerURI(t, "binary-v2", "crash", "x")})
		if !errors.Is(err, errdefs.ErrUnavailable) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("hang", func(t *testing.T) {
		noLeaks(t)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := Open(ctx, Config{ID: "c1", Namespace: "ns", Stdout: loggerURI(t, "binary", "hang", "x")})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		noLeaks(t)
		_, err := Open(t.Context(), Config{ID: "c1", Namespace: "ns", Stdout: "binary:///nonexistent/logger"})
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("error %v", err)
		}
	})
}

func TestBadTargets(t *testing.T) {
	noLeaks(t)
	for _, name := range []string{"http://host/x", "file://", "file://relative/..", "binary://%zz"} {
		if _, err := Open(t.Context(), Config{Stdout: name}); err == nil {
			t.Errorf("%s was opened", name)
		} else if name != "file://relative/.." && !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: error %v has the wrong class", name, err)
		}
	}
	config := fifos(t)
	config.Stderr = "/nonexistent/fifo"
	if _, err := Open(t.Context(), config); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing FIFO: %v", err)
	}
}

func TestLoggerArgs(t *testing.T) {
	got, err := loggerArgs("b=2&a=1&flag&b=3&_X=%2Fvar%2Flib")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"b", "2", "a", "1", "flag", "", "_X", "/var/lib"}, got); diff != "" {
		t.Error(diff)
	}
	for _, query := range []string{"%zz", "a=%00"} {
		if _, err := loggerArgs(query); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: error %v", query, err)
		}
	}
}

func FuzzTarget(f *testing.F) {
	for _, seed := range []string{"", "/run/x", "file:///a", "binary:///b?c=d", "fifo://x/y"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		to, err := parseTarget(name)
		if err != nil {
			return
		}
		if to.create && !filepath.IsAbs(to.path) {
			t.Errorf("%q would create %q", name, to.path)
		}
		if to.logger != nil {
			args, err := loggerArgs(to.logger.RawQuery)
			if err == nil && (len(args)%2 != 0 || bytes.ContainsRune([]byte(strings.Join(args, "")), 0)) {
				t.Errorf("%q gives arguments %q", name, args)
			}
		}
	})
}
