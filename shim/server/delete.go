package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pvelxc/pvelxc/shim/bootstrap"
	"github.com/pvelxc/pvelxc/shim/container"
	"github.com/pvelxc/pvelxc/shim/sandbox"
)

type empty = emptypb.Empty

// deleteTimeout leaves a little of the five seconds containerd gives to this command.
const deleteTimeout = 4500 * time.Millisecond

// delete removes what is left of a container and prints its exit. containerd runs it when it has lost the shim, and also after each
// regular deletion: then nothing is left, and it must be quick.
func (c *command) delete(ctx context.Context, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	bundle := c.Bundle
	if bundle == "" {
		var err error
		if bundle, err = os.Getwd(); err != nil {
			return fmt.Errorf("find bundle: %w", err)
		}
	}
	if err := c.release(ctx, bundle); err != nil {
		log.G(ctx).WithError(err).Warn("shim does not let go of the container")
	}
	// Where the container is a sandbox that the shim has held, there is no container.
	if err := sandbox.Cleanup(ctx, container.DefaultRoot, c.Namespace, c.ID); err != nil {
		return err
	}
	exit, err := c.engine.Cleanup(ctx, container.CleanupConfig{ID: c.ID, Namespace: c.Namespace, Bundle: bundle})
	if err != nil {
		return fmt.Errorf("clean up container %s: %w", c.ID, err)
	}
	data, err := proto.Marshal(&api.DeleteResponse{Pid: uint32(exit.Pid), ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At)})
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	if _, err := stdout.Write(data); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

// release deals with the container's shim. A live one, which a containerd that died during a start never got to know, gives the
// container up and ends if it was its last. The socket of a dead one is removed.
func (c *command) release(ctx context.Context, bundle string) error {
	socket, ok := bootstrap.ParseAddress(bootstrap.ReadAddress(bundle))
	if !ok {
		return nil
	}
	if _, err := os.Lstat(socket.Path()); err != nil {
		return nil // the usual case: the shim has ended in peace
	}
	for pause := time.Millisecond; ; pause *= 2 {
		running, err := dial(ctx, socket.Path(), c.Namespace)
		if err != nil {
			return err
		}
		if running == nil {
			break
		}
		err = c.discard(ctx, running, bundle)
		running.close()
		if !errdefs.IsUnavailable(err) {
			return err
		}
		// A process that is being killed takes connections for a moment longer than it answers.
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
	unlock, err := socket.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	// Again under the lock: a new shim may have taken the place meanwhile.
	running, err := dial(ctx, socket.Path(), c.Namespace)
	if err != nil {
		return err
	}
	if running != nil {
		running.close()
		return nil
	}
	socket.Remove()
	return nil
}

// discard makes a running shim give up what containerd has given up: a sandbox where the bundle has no specification, else a container.
func (c *command) discard(ctx context.Context, running *peer, bundle string) error {
	if _, err := os.Lstat(filepath.Join(bundle, "config.json")); errors.Is(err, os.ErrNotExist) {
		return running.endSandbox(ctx, c.ID)
	}
	return running.discard(ctx, c.ID)
}
