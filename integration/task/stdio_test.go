package task

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestStdinClose(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		in, write := io.Pipe()
		c := e.Start(t, harness.Args("cat"), harness.Stdin(in))
		if _, err := io.WriteString(write, "one\ntwo\n"); err != nil {
			t.Fatal(err)
		}
		c.Saw(t, "two")
		write.Close()
		if err := c.Task.CloseIO(e.Context, containerd.WithStdinCloser); err != nil {
			t.Fatal(err)
		}
		if got := c.Wait(t); got.Status != 0 || got.Stdout != "one\ntwo\n" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestExecStdinClose(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		p := c.NewExec(t, strings.NewReader(strings.Repeat("line\n", 20000)), []string{"wc", "-l"})
		if err := p.Start(e.Context); err != nil {
			t.Fatal(err)
		}
		if err := p.CloseIO(e.Context, containerd.WithStdinCloser); err != nil {
			t.Fatal(err)
		}
		if got := p.Wait(t); got.Status != 0 || strings.TrimSpace(got.Stdout) != "20000" {
			t.Errorf("got %+v", got)
		}
	})
}

// CloseIO without a standard input to close does nothing.
func TestCloseIOWithoutStdin(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		if err := c.Task.CloseIO(e.Context, containerd.WithStdinCloser); err != nil {
			t.Error(err)
		}
	})
}

func TestLargeOutput(t *testing.T) {
	const blocks = 200 // of 64 KiB
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		script := fmt.Sprintf("dd if=/dev/zero bs=65536 count=%d 2>/dev/null | tr '\\0' x; echo end >&2", blocks)
		got := e.Run(t, harness.Shell(script))
		if len(got.Stdout) != blocks*65536 || strings.Trim(got.Stdout, "x") != "" {
			t.Errorf("%d bytes of output, want %d", len(got.Stdout), blocks*65536)
		}
		if got.Status != 0 || got.Stderr != "end\n" {
			t.Errorf("status %d, stderr %q", got.Status, got.Stderr)
		}
	})
}

// Nobody reads the streams of NullIO: the container must not hang or die of SIGPIPE.
func TestNullIO(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		if got := e.Run(t, harness.IO(cio.NullIO), harness.Shell("dd if=/dev/zero bs=65536 count=20 2>&1; exit 8")); got.Status != 8 {
			t.Errorf("status %d, want 8", got.Status)
		}
	})
}

// A client that dies takes its ends of the FIFOs with it: the container goes on, and can be killed
// and deleted.
func TestReaderDies(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Shell("while :; do echo line; sleep 0.01; done"))
		c.Saw(t, "line")
		c.Task.IO().Cancel()
		c.Task.IO().Close()
		if got := c.Sh(t, "echo well"); got != "well\n" {
			t.Errorf("exec printed %q", got)
		}
	})
}

func TestLogFile(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		path := filepath.Join(t.TempDir(), "deep", "log")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		got := e.Run(t, harness.IO(cio.LogFile(path)), harness.Shell("echo out; echo err >&2; exit 2"))
		if got.Status != 2 {
			t.Errorf("status %d, want 2", got.Status)
		}
		harness.Eventually(t, "the log", func() error {
			data, err := os.ReadFile(path)
			if text := string(data); err == nil && (!strings.Contains(text, "out\n") || !strings.Contains(text, "err\n")) {
				err = fmt.Errorf("the log has %q", text)
			}
			return err
		})
	})
}

// logger is a log driver of the binary:// kind: output on descriptors 3 and 4, ready when 5 closes.
const logger = `#!/bin/sh
out=$2
printf '%s %s\n' "$CONTAINER_NAMESPACE" "$CONTAINER_ID" >"$out.env"
exec 5>&-
cat <&4 >"$out.err" &
cat <&3 >"$out.out"
wait
`

func TestLogBinary(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		dir := t.TempDir()
		binary, out := filepath.Join(dir, "logger"), filepath.Join(dir, "log")
		if err := os.WriteFile(binary, []byte(logger), 0o755); err != nil {
			t.Fatal(err)
		}
		c := e.Start(t, harness.IO(cio.BinaryIO(binary, map[string]string{"to": out})),
			harness.Shell("echo out; echo err >&2; dd if=/dev/zero bs=65536 count=20 2>/dev/null | tr '\\0' x; exit 2"))
		if got := c.Wait(t); got.Status != 2 {
			t.Errorf("status %d, want 2", got.Status)
		}
		if err := c.Remove(); err != nil {
			t.Fatal(err)
		}
		for suffix, want := range map[string]string{
			".env": e.Namespace + " " + c.ID() + "\n",
			".out": "out\n" + strings.Repeat("x", 20*65536),
			".err": "err\n",
		} {
			harness.Eventually(t, "what the log driver wrote", func() error {
				data, err := os.ReadFile(out + suffix)
				if err == nil && string(data) != want {
					err = fmt.Errorf("%s has %d bytes (%.40q), want %d (%.40q)", suffix, len(data), data, len(want), want)
				}
				return err
			})
		}
	})
}

// A log driver that cannot be run fails the create and leaves nothing.
func TestLogBinaryMissing(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		_, err := e.TryCreate(t, harness.IO(cio.BinaryIO("/no/such/driver", nil)), harness.Args("true"))
		if err == nil || !strings.Contains(err.Error(), "/no/such/driver") {
			t.Errorf("create with a missing log driver: %v, want an error that names it", err)
		}
	})
}
