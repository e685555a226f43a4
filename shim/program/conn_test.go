package program

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestConn(t *testing.T) {
	conn, peer, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	other, err := NewConn(peer)
	if err != nil {
		t.Fatal(err)
	}
	peer.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := other.Send(t.Context(), MsgFD, uint32(FDConsole), w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	m, err := conn.Recv(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m.Type != MsgFD || m.Arg != uint32(FDConsole) || len(m.Files) != 1 || m.PID != os.Getpid() || m.UID != uint32(os.Geteuid()) {
		t.Errorf("got %+v", m)
	}
	if flags, err := unix.FcntlInt(m.Files[0].Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v: want close-on-exec", flags, err)
	}
	m.Close()
	if b, err := io.ReadAll(r); err != nil || len(b) > 0 {
		t.Errorf("the descriptor was not closed: %q, %v", b, err)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := conn.Recv(ctx); !errors.Is(err, why) {
		t.Errorf("cancelled: got %v, want %v", err, why)
	}
	short, stop := context.WithTimeout(t.Context(), time.Millisecond)
	defer stop()
	if _, err := conn.Recv(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("timed out: got %v", err)
	}
	// It goes on working after that.
	if err := other.Send(t.Context(), MsgHello, 2); err != nil {
		t.Fatal(err)
	}
	if m, err := conn.Recv(t.Context()); err != nil || m.Type != MsgHello {
		t.Errorf("after a timeout: %+v, %v", m, err)
	}
	other.Close()
	if _, err := conn.Recv(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("closed: got %v, want io.EOF", err)
	}
	if err := conn.Send(t.Context(), MsgGo, 0); !errors.Is(err, unix.EPIPE) {
		t.Errorf("send to nobody: got %v, want EPIPE", err)
	}
}

func TestMalformedMessages(t *testing.T) {
	conn, peer, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer peer.Close()
	for _, msg := range [][]byte{[]byte("short"), bytes.Repeat([]byte{1}, msgSize+maxText+1), bytes.Repeat([]byte{1}, 1<<16)} {
		if _, err := peer.Write(msg); err != nil {
			t.Fatal(err)
		}
		if m, err := conn.Recv(t.Context()); err == nil {
			t.Errorf("%d bytes: got %+v, want an error", len(msg), m)
		}
	}
	before := descriptors(t)
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	rights := unix.UnixRights(int(null.Fd()), int(null.Fd()))
	if err := unix.Sendmsg(int(peer.Fd()), []byte("short"), rights, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Recv(t.Context()); err == nil {
		t.Error("a short message with descriptors was accepted")
	}
	if after := descriptors(t); after != before+1 {
		t.Errorf("%d descriptors are open, %d before: those of the bad message leak", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func TestManyDescriptors(t *testing.T) {
	needRoot(t)
	b := new(Builder)
	b.FDs()
	files := make([]*os.File, 300) // three messages
	for i := range files {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	uts, err := os.Open("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	defer uts.Close()
	for _, f := range append(files, uts) {
		b.fd(f)
	}
	b.buf = b.buf[:headerSize] // those were only to fill the table
	b.descs = nil
	b.FDs()
	b.Setns(uts, unix.CLONE_NEWUTS)
	r := startHook(t, options{})
	if err := r.serve(program(t, b), nil); err != nil {
		t.Error(err)
	}
}

func TestMemfd(t *testing.T) {
	b := new(Builder)
	b.Hostname("x")
	p := program(t, b)
	f, err := p.Memfd()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, len(p.Bytes())+1)
	if n, _ := f.ReadAt(got, 0); !bytes.Equal(got[:n], p.Bytes()) {
		t.Errorf("the file holds %x, want %x", got[:n], p.Bytes())
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("write: got %v, want EPERM", err)
	}
	if err := f.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("truncate: got %v, want EPERM", err)
	}
}
