package seccomp

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// SendListener hands the notify descriptor of a container's filter to the agent
// that listens at path (config-linux.md#containerprocessstate): one message on a
// UNIX stream socket, with state as JSON and the descriptor, then the end of the
// connection. state.Fds has one name, specs.SeccompFdName, for it. The caller
// closes listener.
func SendListener(ctx context.Context, path string, state specs.ContainerProcessState, listener *os.File) error {
	message, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode the state for seccomp listener %s: %w", path, err)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("connect to the seccomp listener: %w (hint: linux.seccomp.listenerPath must be an agent's socket on the host)", err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return fmt.Errorf("send to seccomp listener %s: %w", path, err)
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	// The descriptor goes with the first byte; a long state may need more writes.
	n, _, err := conn.(*net.UnixConn).WriteMsgUnix(message, unix.UnixRights(int(listener.Fd())), nil)
	if err == nil && n < len(message) {
		_, err = conn.Write(message[n:])
	}
	if err != nil {
		return fmt.Errorf("send to seccomp listener %s: %w", path, err)
	}
	return nil
}
