// Package bootstrap is the front of the runtime: the program that containerd runs and reads.
//
//	containerd ── start ──▶ front ──spawns──▶ pvelxc-shim serve ◀── ttrpc ── containerd
//	                          └── address ──▶ containerd
//	containerd ── delete ──▶ front            after every task; after a shim's death it becomes pvelxc-shim delete
//	containerd ── -info ───▶ front            becomes pvelxc-shim -info
//
// containerd waits for it twice in the life of every container, so it is small: without protobuf, ttrpc and package net it starts in
// a fraction of the time that the shim itself takes. What is not needed in the usual case is left to pvelxc-shim (package server),
// which must lie beside it.
//
// containerd 2.3 and newer put all parameters on standard input and read a protobuf message. Older ones, from 1.6 on, pass flags
// and environment and read an address. The commands tell the two apart by their input and answer as they were asked, so one shim
// serves a daemon through its upgrades.
package bootstrap

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// Runtime is the name by which containerd's clients choose this shim.
	Runtime = "io.containerd.pvelxc.v2"
	// ShimProgram is the long-lived program, which lies beside this one.
	ShimProgram = "pvelxc-shim"
)

// Invocation is the command line, as containerd's core/runtime/v2 builds it.
type Invocation struct {
	Action        string // start, delete, or serve, which only the front uses
	ID, Namespace string
	Address       string // containerd's gRPC socket
	PublishBinary string // containerd's program
	Bundle        string // only given to delete
	Debug         bool
	Info, Version bool
}

// Main runs the front and returns its exit status. On success it prints nothing but the answer: containerd reads both standard output
// and error.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	in, err := Parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err == nil {
		err = in.run(args, stdin, stdout)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", Runtime, err)
		return 1
	}
	return 0
}

// Parse reads a command line. The error is flag.ErrHelp when help was asked for and given.
func Parse(args []string, stderr io.Writer) (*Invocation, error) {
	in := new(Invocation)
	flags := flag.NewFlagSet(filepath.Base(args[0]), flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&in.ID, "id", "", "`id` of the container")
	flags.StringVar(&in.Namespace, "namespace", "", "containerd's `namespace` of the container")
	flags.StringVar(&in.Address, "address", "", "`path` of containerd's gRPC socket")
	flags.StringVar(&in.PublishBinary, "publish-binary", "", "`path` of containerd, to publish events where TTRPC_ADDRESS is not set")
	flags.StringVar(&in.Bundle, "bundle", "", "`path` of the bundle, if it is not the working directory")
	flags.BoolVar(&in.Debug, "debug", false, "log debug messages")
	flags.BoolVar(&in.Info, "info", false, "print the runtime's features as protobuf; options are read from standard input")
	flags.BoolVar(&in.Version, "v", false, "print the version")
	flags.BoolVar(&in.Version, "version", false, "print the version")
	flags.Usage = func() {
		fmt.Fprintf(stderr, "usage: %s [flags] start | delete\ncontainerd runs this program for `--runtime %s`.\n", flags.Name(), Runtime)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args[1:]); err != nil {
		return nil, err
	}
	in.Action = flags.Arg(0)
	return in, nil
}

// Complete says what a command about a container lacks.
func (in *Invocation) Complete() error {
	for _, required := range []struct{ flag, value string }{{"-namespace", in.Namespace}, {"-id", in.ID}} {
		if required.value == "" {
			return fmt.Errorf("%s is missing: %w (hint: containerd runs this program; users choose it with --runtime %s)", required.flag,
				errdefs.ErrInvalidArgument, Runtime)
		}
	}
	return nil
}

func (in *Invocation) run(args []string, stdin io.Reader, stdout io.Writer) error {
	if in.Version || in.Info {
		return become(args)
	}
	if err := in.Complete(); err != nil {
		return err
	}
	switch in.Action {
	case "start":
		return in.start(stdin, stdout)
	case "delete":
		if done, err := in.delete(stdout); done || err != nil {
			return err
		}
		return become(args)
	default:
		return fmt.Errorf("unknown command %q (start and delete are known): %w", in.Action, errdefs.ErrInvalidArgument)
	}
}

// shimProgram is the path of pvelxc-shim.
func shimProgram() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find own program: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), ShimProgram)
	if err := unix.Access(path, unix.X_OK); err != nil {
		return "", fmt.Errorf("%s: %w (hint: all programs of pvelxc belong in one directory)", path, err)
	}
	return path, nil
}

// become goes on as pvelxc-shim with the same arguments and streams; it returns only when that fails.
func become(args []string) error {
	path, err := shimProgram()
	if err != nil {
		return err
	}
	err = unix.Exec(path, append([]string{path}, args[1:]...), os.Environ())
	return fmt.Errorf("run %s: %w", path, err)
}
