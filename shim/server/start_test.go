package server

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
)

// A start that ends before it could answer, as a killed one does, leaves no shim and no socket: nobody
// would ever look for them.
func TestStartWithoutAnswer(t *testing.T) {
	w := newWorld(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Close() // the answer meets SIGPIPE
	defer write.Close()
	cmd := exec.Command(front, "-namespace", "ns", "-address", "/run/test/containerd.sock", "-publish-binary", "/nonexistent", "-id", "c", "start")
	cmd.Dir = w.bundle("c", nil)
	cmd.Stdin = bytes.NewReader(w.modern("c"))
	cmd.Stdout = write
	if err := cmd.Run(); err == nil {
		t.Fatal("start succeeded without an answer")
	}
	if _, err := os.Stat(cmd.Dir + "/address"); err != nil {
		t.Fatalf("start ended before it had made a shim: %v", err)
	}
	w.eventually("the socket is gone", func() bool {
		entries, err := os.ReadDir(w.sockets)
		return err == nil && len(entries) == 0
	})
}
