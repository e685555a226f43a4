package server

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// listener accepts connections of our own user, and knows how many are open: ttrpc's Server.Shutdown takes a connection for idle
// whose request is being answered, and so would lose the answer to the last request.
type listener struct {
	*net.UnixListener

	mu     sync.Mutex // guards what follows
	open   int
	closed bool
	empty  chan struct{} // closed when closed, and no connection is open
}

// inherit takes the listening socket over from `start`.
func inherit(fd int) (*listener, error) {
	unix.CloseOnExec(fd)
	file := os.NewFile(uintptr(fd), "socket")
	inherited, err := net.FileListener(file)
	_ = file.Close()
	if err != nil {
		return nil, fmt.Errorf("take over socket: %w", err)
	}
	socket, ok := inherited.(*net.UnixListener)
	if !ok {
		_ = inherited.Close()
		return nil, fmt.Errorf("take over socket: %s is no unix socket", inherited.Addr())
	}
	return &listener{UnixListener: socket, empty: make(chan struct{})}, nil
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if err := requireSameUser(accepted); err != nil {
			_ = accepted.Close()
			continue
		}
		l.mu.Lock()
		l.open++
		l.mu.Unlock()
		return &connection{UnixConn: accepted, closed: sync.OnceFunc(l.done)}, nil
	}
}

func (l *listener) done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open--; l.open == 0 && l.closed {
		close(l.empty)
	}
}

// farewell accepts no more and waits until the clients have closed their connections, which they do after their last answer.
func (l *listener) farewell(ctx context.Context) {
	_ = l.Close()
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		if l.open == 0 {
			close(l.empty)
		}
	}
	l.mu.Unlock()
	select {
	case <-l.empty:
	case <-ctx.Done():
	}
}

type connection struct {
	*net.UnixConn
	closed func()
}

func (c *connection) Close() error {
	defer c.closed()
	return c.UnixConn.Close()
}

// requireSameUser refuses everybody else: the socket's mode is one wall, this is another.
func requireSameUser(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var failure error
	err = raw.Control(func(fd uintptr) { peer, failure = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil {
		return err
	}
	if failure != nil {
		return failure
	}
	if int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("connection of user %d: %w", peer.Uid, os.ErrPermission)
	}
	return nil
}
