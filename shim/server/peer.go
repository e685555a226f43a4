package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/shim/sandbox/service"
	"github.com/pvelxc/pvelxc/shim/task"
)

const (
	// peerTimeout bounds a question to a running shim, which answers at once if it is well.
	peerTimeout = 3 * time.Second
)

// peer is a running shim, seen from another process of the same program.
type peer struct {
	client    *ttrpc.Client
	namespace string
}

// dial connects to the shim at path. It returns nil where there is no socket, or nobody behind it.
func dial(ctx context.Context, path, namespace string) (*peer, error) {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("connect to shim: %w", err)
	}
	return &peer{client: ttrpc.NewClient(conn), namespace: namespace}, nil
}

func (p *peer) close() { _ = p.client.Close() }

// call makes a request of a service. A shim that ends, or dies, before it answers is unavailable.
func (p *peer) call(ctx context.Context, service, method string, request, response any) error {
	ctx = ttrpc.WithMetadata(ctx, ttrpc.MD{"containerd-namespace-ttrpc": {p.namespace}})
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	err := p.client.Call(ctx, service, method, request, response)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ttrpc.ErrClosed):
		err = fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	default:
		err = errgrpc.ToNative(err)
	}
	return fmt.Errorf("%s of running shim: %w", method, err)
}

// discard makes the shim give up a container that containerd has given up, and end if it was its last.
func (p *peer) discard(ctx context.Context, id string) error {
	const killed = uint32(unix.SIGKILL)
	err := p.call(ctx, task.ServiceV2, "Kill", &api.KillRequest{ID: id, Signal: killed, All: true}, &empty{})
	if err == nil {
		if err := p.call(ctx, task.ServiceV2, "Wait", &api.WaitRequest{ID: id}, &api.WaitResponse{}); err != nil {
			return err
		}
	}
	// NotFound of Kill: the shim does not have the container, or only its remains.
	if err := p.call(ctx, task.ServiceV2, "Delete", &api.DeleteRequest{ID: id}, &api.DeleteResponse{}); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return p.call(ctx, task.ServiceV2, "Shutdown", &api.ShutdownRequest{ID: id}, &empty{})
}

// endSandbox makes the shim give up the sandbox that it holds, and end.
func (p *peer) endSandbox(ctx context.Context, id string) error {
	// The request has nothing but an id, as field 1, and so is that of a task.
	err := p.call(ctx, service.Name, "ShutdownSandbox", &api.ShutdownRequest{ID: id}, &empty{})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
