// Package bootstrap is the front of the shim program: what containerd runs and reads.
//
//	containerd ── start ──▶ shim start ──spawns──▶ shim serve ◀── ttrpc ── containerd
//	                             └── address ──▶ containerd
//	containerd ── delete ──▶ shim delete      after a shim's death, and after every task
//	containerd ── -info ───▶ shim -info       features for CRI
//
// containerd 2.3 and newer put all parameters on standard input and read a protobuf message. Older ones, from 1.6 on, pass flags
// and environment and read an address. The commands tell the two apart by their input and answer as they were asked, so one shim
// serves a daemon through its upgrades.
package bootstrap

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/pvelxc/pvelxc/shim/container"
)

// Runtime is the name by which containerd's clients choose this shim.
const Runtime = "io.containerd.pvelxc.v2"

// invocation is the command line, as containerd's core/runtime/v2 builds it.
type invocation struct {
	engine        Engine
	action        string
	id, namespace string
	address       string // containerd's gRPC socket
	publishBinary string // containerd's program
	bundle        string // only given to delete
	debug         bool
	info, version bool
}

// Engine makes containers and takes them away.
type Engine struct {
	// Create makes a container.
	Create func(context.Context, container.Config) (*container.Container, error)
	// Cleanup removes one whose shim is gone.
	Cleanup func(context.Context, container.CleanupConfig) (container.Exit, error)
	// Started is called once by a shim that begins to serve, in a goroutine of its
	// own; ctx ends with the shim. It may be nil.
	Started func(ctx context.Context)
}

// Main runs the shim program on an engine and returns its exit status. On success it prints nothing but the answer: containerd reads both
// standard output and error.
func Main(engine Engine, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	in, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err == nil {
		in.engine = engine
		err = in.run(stdin, stdout)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", Runtime, err)
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (*invocation, error) {
	in := new(invocation)
	flags := flag.NewFlagSet(filepath.Base(args[0]), flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&in.id, "id", "", "`id` of the container")
	flags.StringVar(&in.namespace, "namespace", "", "containerd's `namespace` of the container")
	flags.StringVar(&in.address, "address", "", "`path` of containerd's gRPC socket")
	flags.StringVar(&in.publishBinary, "publish-binary", "", "`path` of containerd, to publish events where TTRPC_ADDRESS is not set")
	flags.StringVar(&in.bundle, "bundle", "", "`path` of the bundle, if it is not the working directory")
	flags.BoolVar(&in.debug, "debug", false, "log debug messages")
	flags.BoolVar(&in.info, "info", false, "print the runtime's features as protobuf; options are read from standard input")
	flags.BoolVar(&in.version, "v", false, "print the version")
	flags.BoolVar(&in.version, "version", false, "print the version")
	flags.Usage = func() {
		fmt.Fprintf(stderr, "usage: %s [flags] start | delete\ncontainerd runs this program for `--runtime %s`.\n", flags.Name(), Runtime)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args[1:]); err != nil {
		return nil, err
	}
	in.action = flags.Arg(0)
	return in, nil
}

func (in *invocation) run(stdin io.Reader, stdout io.Writer) error {
	ctx := context.Background()
	if in.debug {
		_ = log.SetLevel("debug")
	}
	switch {
	case in.version:
		_, err := fmt.Fprintln(stdout, versionText())
		return err
	case in.info:
		return writeInfo(stdin, stdout)
	}
	for _, required := range []struct{ flag, value string }{{"-namespace", in.namespace}, {"-id", in.id}} {
		if required.value == "" {
			return fmt.Errorf("%s is missing: %w (hint: containerd runs this program; users choose it with --runtime %s)", required.flag,
				errdefs.ErrInvalidArgument, Runtime)
		}
	}
	switch in.action {
	case "start":
		return in.start(ctx, stdin, stdout)
	case "delete":
		return in.delete(ctx, stdout)
	case "serve":
		return in.serve(ctx)
	default:
		return fmt.Errorf("unknown command %q (start and delete are known): %w", in.action, errdefs.ErrInvalidArgument)
	}
}
