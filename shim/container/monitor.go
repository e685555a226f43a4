package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/internal/mounttree"
	"github.com/pvelxc/pvelxc/shim/program"
	"github.com/pvelxc/pvelxc/shim/reaper"
	"github.com/pvelxc/pvelxc/shim/stdio"
)

// monitor is the process that holds one LXC container (shim/monitor/monitor.c),
// and the socket on which the mount hook, PID 1 and it speak, in this order.
type monitor struct {
	pid int
	// gone is closed after exit is set.
	gone chan struct{}
	exit reaper.Exit
	conn *program.Conn
	// current is the program that the last hello was answered with; its errors are
	// told in its words.
	current *program.Program
	logPath string
	// killAll ends every process of the container, so that none holds the socket.
	killAll func()
}

// errMonitorGone is the cause when the monitor ends in the middle of a conversation.
var errMonitorGone = errors.New("the container ended before it was ready")

// spawnMonitor starts a pvelxc-monitor that waits for its container. It ends when its
// conn is closed before that.
func spawnMonitor(p *Programs) (*monitor, error) {
	conn, peer, err := program.Pair()
	if err != nil {
		return nil, err
	}
	defer peer.Close()
	streams, err := stdio.NullChild()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", p.Monitor.Path, err), conn.Close())
	}
	defer streams.Close()
	pid, exits, err := spawn(p.Monitor, nil, streams, peer)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	m := &monitor{pid: pid, gone: make(chan struct{}), conn: conn}
	go func() {
		m.exit = <-exits
		close(m.gone)
	}()
	return m, nil
}

// start lets the monitor start the container of d, with the child ends of the
// container's stdio.
func (m *monitor) start(ctx context.Context, init Executable, d dirs, killAll func(), child stdio.Child) error {
	m.logPath, m.killAll = d.log(), killAll
	tree, err := initTree(init)
	if err != nil {
		return err
	}
	defer tree.Close()
	return m.conn.SendContainer(ctx, program.Container{
		Stdin: child.Stdin, Stdout: child.Stdout, Stderr: child.Stderr, Init: tree,
		Name: d.name, LXCPath: d.lxcpath, Config: d.config(), ExitFile: d.exit(),
	})
}

// initTree is the read-only detached mount of pvelxc-init that it is executed from in
// the container: nothing appears in the container's root, and no process in it can
// reach the file on the host for writing (CVE-2019-5736).
func initTree(init Executable) (*os.File, error) {
	tree, err := mounttree.CloneFile(init.file)
	if err != nil {
		return nil, fmt.Errorf("pvelxc-init: %w", err)
	}
	attr := mounttree.Attr{Set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV, Clear: unix.MOUNT_ATTR_NOEXEC, Propagation: unix.MS_PRIVATE}
	if err := mounttree.SetAttr(tree, attr); err != nil {
		_ = tree.Close()
		return nil, fmt.Errorf("pvelxc-init: %w", err)
	}
	return tree, nil
}

// hello waits for a role to begin and returns its pid in the shim's namespace.
func (m *monitor) hello(ctx context.Context, want program.Role) (int, error) {
	msg, err := m.recv(ctx)
	if err != nil {
		return 0, err
	}
	if msg.Type != program.MsgHello || program.Role(msg.Arg) != want {
		return 0, m.unexpected(msg)
	}
	return msg.PID, nil
}

// answer sends the program that hello asked for.
func (m *monitor) answer(ctx context.Context, p *program.Program) error {
	m.current = p
	return m.conn.SendProgram(ctx, p)
}

// sync waits until the program has come to OP_SYNC number n. Descriptors that come
// before it are handed to take.
func (m *monitor) sync(ctx context.Context, n uint32, take func(program.FDKind, *os.File)) error {
	for {
		msg, err := m.recv(ctx)
		if err != nil {
			return err
		}
		switch {
		case msg.Type == program.MsgFD && len(msg.Files) == 1 && take != nil:
			take(program.FDKind(msg.Arg), msg.Files[0])
		case msg.Type == program.MsgSync && msg.Arg == n:
			return nil
		default:
			return m.unexpected(msg)
		}
	}
}

// done waits for the end of the mount hook's program.
func (m *monitor) done(ctx context.Context) error {
	msg, err := m.recv(ctx)
	if err != nil {
		return err
	}
	if msg.Type != program.MsgDone {
		return m.unexpected(msg)
	}
	return nil
}

// proceed lets the program go on after sync.
func (m *monitor) proceed(ctx context.Context) error {
	return m.conn.Send(ctx, program.MsgGo, 0)
}

// recv receives one message and turns what can only be a failure into an error.
// The end of the monitor ends the wait, though a process that inherited the
// socket may still hold it open.
func (m *monitor) recv(ctx context.Context) (*program.Message, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-m.gone:
			cancel(errMonitorGone)
		case <-stop:
		}
	}()
	msg, err := m.conn.Recv(ctx)
	if errors.Is(err, errMonitorGone) {
		// What was said before the end is still in the socket, and tells the cause.
		m.killAll()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		msg, err = m.conn.Recv(last)
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil, m.withLog(errMonitorGone)
	case err != nil:
		return nil, err
	}
	switch msg.Type {
	case program.MsgError:
		msg.Close()
		if msg.PID == m.pid {
			return nil, m.withLog(m.ownError(msg))
		}
		if m.current == nil {
			return nil, m.ownError(msg)
		}
		return nil, m.current.Error(msg)
	case program.MsgExit:
		msg.Close()
		return nil, m.withLog(errMonitorGone)
	}
	return msg, nil
}

// ownError is a MsgError of pvelxc-monitor itself.
func (m *monitor) ownError(msg *program.Message) error {
	if msg.Err == 0 {
		return errors.New(msg.Text)
	}
	return fmt.Errorf("%s: %w", msg.Text, msg.Err)
}

func (m *monitor) unexpected(msg *program.Message) error {
	msg.Close()
	return fmt.Errorf("pvelxc-init: unexpected message %d (arg %d); are pvelxc-init and the shim of one version?", msg.Type, msg.Arg)
}

// withLog adds what liblxc logged as errors to err.
func (m *monitor) withLog(err error) error {
	if lines := lxcErrors(m.logPath); lines != "" {
		return fmt.Errorf("%w: liblxc: %s", err, lines)
	}
	return err
}

// lxcErrors returns the first errors in liblxc's log, which name the cause; the
// later ones are its echo in the callers.
func lxcErrors(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	const most = 3
	var found []string
	for line := range strings.Lines(string(data)) {
		// "lxc NAME 2026… ERROR    conf - ../src/lxc/conf.c:func:123 - message"
		if _, after, ok := strings.Cut(line, " ERROR "); ok {
			if i := strings.LastIndex(after, " - "); i >= 0 {
				found = append(found, strings.TrimSpace(after[i+3:]))
			}
		}
		if len(found) == most {
			break
		}
	}
	return strings.Join(found, "; ")
}

// status is the container's exit status, once gone is closed. A monitor that was
// killed has none to give: the container is then ended by us.
func (m *monitor) status() (status uint32, killed bool) {
	if m.exit.Status.Signaled() {
		return 128 + uint32(syscall.SIGKILL), true
	}
	return m.exit.Code(), false
}

// close frees the socket, after gone.
func (m *monitor) close() { _ = m.conn.Close() }
