package events

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pvelxc/pvelxc/shim/reaper"
)

// attempt bounds one delivery.
const attempt = 5 * time.Second

// Config says how containerd is reached.
type Config struct {
	// TTRPCAddress is containerd's ttrpc socket (TTRPC_ADDRESS), with or without unix://.
	TTRPCAddress string
	// Binary and GRPCAddress serve where TTRPCAddress is empty: containerd's program is run as `containerd publish`.
	Binary, GRPCAddress string
}

func (c Config) publisher() publisher {
	if c.TTRPCAddress != "" {
		return &forwarder{path: strings.TrimPrefix(c.TTRPCAddress, "unix://")}
	}
	return &command{binary: c.Binary, address: c.GRPCAddress}
}

// forwarder calls containerd's events service over ttrpc. Only the queue's worker uses it.
type forwarder struct {
	path   string
	client *ttrpc.Client // nil while there is no connection
}

func (f *forwarder) publish(ctx context.Context, event *types.Envelope) error {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	if f.client == nil {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", f.path)
		if err != nil {
			return fmt.Errorf("connect to containerd: %w: %w", err, errdefs.ErrUnavailable)
		}
		f.client = ttrpc.NewClient(conn)
	}
	_, err := eventsapi.NewTTRPCEventsClient(f.client).Forward(ctx, &eventsapi.ForwardRequest{Envelope: event})
	if err == nil {
		return nil
	}
	// An answer is final; everything else is containerd's end, or its start: a starting daemon has the socket before the service.
	if answer, ok := status.FromError(err); ok && answer.Code() != codes.Unavailable && answer.Code() != codes.Unimplemented {
		return fmt.Errorf("forward event: %w", err)
	}
	f.rest()
	return fmt.Errorf("forward event: %w: %w", err, errdefs.ErrUnavailable)
}

func (f *forwarder) rest() {
	if f.client != nil {
		_ = f.client.Close()
		f.client = nil
	}
}

// command runs `containerd publish`, the way of shims before ttrpc.
type command struct {
	binary, address string
}

func (c *command) publish(ctx context.Context, event *types.Envelope) error {
	if c.binary == "" {
		return fmt.Errorf("no address and no program to publish with: %w", errdefs.ErrFailedPrecondition)
	}
	body, err := proto.Marshal(event.Event)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	var output bytes.Buffer
	cmd := exec.Command(c.binary, "--address", c.address, "publish", "--topic", event.Topic, "--namespace", event.Namespace)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(body), &output, &output
	exit, err := reaper.Run(ctx, cmd)
	if err == nil && exit.Code() != 0 {
		err = errors.New(strings.TrimSpace(output.String()))
	}
	if err != nil {
		return fmt.Errorf("publish event: %w: %w", err, errdefs.ErrUnavailable)
	}
	return nil
}

func (c *command) rest() {}
