// Package server is the program pvelxc-shim: the shim of one pod, which serves containerd's task service until its last container is
// gone, and what is left to do for the front of the runtime (package bootstrap) when something has died.
//
// It is started by the front alone, with the front's command line:
//
//	serve    the shim; descriptors bootstrap.ListenerFD and LeashFD are open
//	delete   takes away what is left of a container
//	-info    prints features for CRI
package server

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/pvelxc/pvelxc/shim/bootstrap"
	"github.com/pvelxc/pvelxc/shim/container"
	"github.com/pvelxc/pvelxc/shim/sandbox"
)

// Engine makes containers and takes them away.
type Engine struct {
	// Create makes a container.
	Create func(context.Context, container.Config) (*container.Container, error)
	// Cleanup removes one whose shim is gone.
	Cleanup func(context.Context, container.CleanupConfig) (container.Exit, error)
	// Sandbox makes the sandbox of a pod that the shim holds without a container.
	Sandbox func(context.Context, sandbox.Config) (*sandbox.Sandbox, error)
	// Started is called once by a shim that begins to serve, in a goroutine of its
	// own; ctx ends with the shim. It may be nil.
	Started func(ctx context.Context)
}

// command is one run of the program.
type command struct {
	*bootstrap.Invocation
	engine Engine
}

// Main runs the program on an engine and returns its exit status.
func Main(engine Engine, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	in, err := bootstrap.Parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err == nil {
		c := &command{Invocation: in, engine: engine}
		err = c.run(context.Background(), stdin, stdout)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", bootstrap.Runtime, err)
		return 1
	}
	return 0
}

func (c *command) run(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	if c.Debug {
		_ = log.SetLevel("debug")
	}
	switch {
	case c.Version:
		_, err := fmt.Fprintln(stdout, versionText())
		return err
	case c.Info:
		return writeInfo(stdin, stdout)
	}
	if err := c.Complete(); err != nil {
		return err
	}
	switch c.Action {
	case "delete":
		return c.delete(ctx, stdout)
	case "serve":
		return c.serve(ctx)
	default:
		return fmt.Errorf("unknown command %q (hint: containerd runs containerd-shim-pvelxc-v2, and that runs this): %w", c.Action, errdefs.ErrInvalidArgument)
	}
}
