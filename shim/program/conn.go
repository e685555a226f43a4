package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is the shim's end of the socket to pvelxc-init. One goroutine may receive
// while another sends.
type Conn struct{ c *net.UnixConn }

// Pair makes a connection: conn for the shim, peer to be inherited by pvelxc-init
// (and to be closed by the caller after that).
func Pair() (conn *Conn, peer *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("create socket pair: %w", err)
	}
	own, peer := os.NewFile(uintptr(fds[0]), "pvelxc-init"), os.NewFile(uintptr(fds[1]), "pvelxc-shim")
	defer own.Close() // NewConn duplicates it
	conn, err = NewConn(own)
	if err != nil {
		peer.Close()
		return nil, nil, err
	}
	return conn, peer, nil
}

// NewConn makes a Conn of an AF_UNIX SOCK_SEQPACKET socket. It duplicates f, which
// stays the caller's.
func NewConn(f *os.File) (*Conn, error) {
	nc, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	c, ok := nc.(*net.UnixConn)
	if !ok {
		nc.Close()
		return nil, fmt.Errorf("open socket: not a unix socket but %T", nc)
	}
	raw, err := c.SyscallConn()
	if err == nil {
		var opt error
		err = raw.Control(func(fd uintptr) { opt = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
		err = errors.Join(err, opt)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("ask for credentials: %w", err)
	}
	return &Conn{c: c}, nil
}

// Close closes the connection; a role that waits for an answer then exits.
func (c *Conn) Close() error { return c.c.Close() }

// Recv waits for the next message. It returns io.EOF when all of the other side
// is closed, and the cause of ctx when that ends.
func (c *Conn) Recv(ctx context.Context) (*Message, error) {
	stop := c.until(ctx, c.c.SetReadDeadline)
	defer stop()
	buf := make([]byte, msgSize+maxText+1)
	oob := make([]byte, unix.CmsgSpace(maxFDsMessage*4)+unix.CmsgSpace(unix.SizeofUcred))
	n, oobn, flags, _, err := c.c.ReadMsgUnix(buf, oob)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			err = cause
		}
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("receive from pvelxc-init: %w", err)
	}
	var control Message
	if err := control.parseControl(oob[:oobn]); err != nil {
		control.Close()
		return nil, err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		control.Close()
		return nil, fmt.Errorf("receive from pvelxc-init: message or descriptors truncated (%#x)", flags)
	}
	m, err := parseMessage(buf[:n])
	if err != nil {
		control.Close()
		return nil, err
	}
	m.PID, m.UID, m.GID, m.Files = control.PID, control.UID, control.GID, control.Files
	return m, nil
}

// Send sends a message with descriptors, which stay the caller's.
func (c *Conn) Send(ctx context.Context, t MessageType, arg uint32, files ...*os.File) error {
	return c.send(ctx, newMessage(t, arg), files)
}

func (c *Conn) send(ctx context.Context, message []byte, files []*os.File) error {
	stop := c.until(ctx, c.c.SetWriteDeadline)
	defer stop()
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := c.c.WriteMsgUnix(message, oob, nil); err != nil {
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			err = cause
		}
		return fmt.Errorf("send to pvelxc-init: %w", err)
	}
	return nil
}

// SendProgram answers MsgHello: the program and all its descriptors.
func (c *Conn) SendProgram(ctx context.Context, p *Program) error {
	f, err := p.Memfd()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := c.Send(ctx, MsgProgram, 0, f); err != nil {
		return err
	}
	for files := range slices.Chunk(p.files, maxFDsMessage) {
		if err := c.Send(ctx, MsgFDs, uint32(len(files)), files...); err != nil {
			return err
		}
	}
	return nil
}

// until lets a deadline in the past interrupt an operation when ctx ends; the
// function that it returns must be called when the operation is over.
func (c *Conn) until(ctx context.Context, set func(time.Time) error) func() {
	if ctx.Done() == nil {
		return func() {}
	}
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		_ = set(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-fired
			_ = set(time.Time{})
		}
	}
}

// parseControl takes over the descriptors before anything can fail, so that the
// caller can close them.
func (m *Message) parseControl(oob []byte) error {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("parse control message: %w", err)
	}
	for _, msg := range msgs {
		if msg.Header.Level != unix.SOL_SOCKET {
			continue
		}
		switch msg.Header.Type {
		case unix.SCM_RIGHTS:
			fds, err := unix.ParseUnixRights(&msg)
			if err != nil {
				return fmt.Errorf("parse descriptors: %w", err)
			}
			for _, fd := range fds {
				// Non-blocking first, so that the runtime's poller takes pipes and ptys.
				_ = unix.SetNonblock(fd, true)
				m.Files = append(m.Files, os.NewFile(uintptr(fd), "from pvelxc-init"))
			}
		case unix.SCM_CREDENTIALS:
			cred, err := unix.ParseUnixCredentials(&msg)
			if err != nil {
				return fmt.Errorf("parse credentials: %w", err)
			}
			m.PID, m.UID, m.GID = int(cred.Pid), cred.Uid, cred.Gid
		}
	}
	return nil
}
