package container

import (
	"io"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/shim/stdio"
)

// A client whose input is empty closes it before the streams are open.
func TestCloseStdinBeforeStreams(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "stdin")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	p := newProcess("c", "e", t.TempDir(), Stdio{Stdin: fifo})
	if err := p.CloseStdin(t.Context()); err != nil {
		t.Fatal(err)
	}
	streams, err := stdio.Open(t.Context(), stdio.Config{Stdin: fifo})
	if err != nil {
		t.Fatal(err)
	}
	defer streams.Close()
	p.setStdio(streams)
	if err := streams.Feed(); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := io.ReadAll(streams.Child().Stdin)
		got <- err
	}()
	select {
	case err := <-got:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the process waits for input for ever")
	}
}
