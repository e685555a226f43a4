package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// ctr runs containerd's client against the private containerd.
func (s *stage) ctr(ctx context.Context, args ...string) error {
	return s.show(ctx, append([]string{"ctr"}, args...))
}

// host runs a program of the machine.
func (s *stage) host(ctx context.Context, args ...string) error { return s.show(ctx, args) }

// quietly prints a command and runs it; its output is a progress bar, of interest when it fails.
func (s *stage) quietly(ctx context.Context, args ...string) error {
	s.out.prompt(args)
	output, err := s.run(ctx, args)
	if err != nil {
		s.out.output(output)
		return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// show prints a command, runs it and prints its output.
func (s *stage) show(ctx context.Context, args []string) error {
	s.out.prompt(args)
	output, err := s.run(ctx, args)
	s.out.output(output)
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args[:min(len(args), 3)], " "), err)
	}
	return nil
}

func (s *stage) run(ctx context.Context, args []string) ([]byte, error) {
	name := args[0]
	if name == "ctr" {
		name = s.daemon.Binary("ctr")
	}
	cmd := exec.CommandContext(ctx, name, args[1:]...)
	// Ctrl-C is for the demo, which then ends its commands in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = append(os.Environ(), "CONTAINERD_ADDRESS="+s.daemon.Address, "CONTAINERD_NAMESPACE="+s.namespace,
		"CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1")
	return cmd.CombinedOutput()
}

// running says whether the container's task is.
func (s *stage) running(ctx context.Context) (bool, error) {
	output, err := s.run(ctx, []string{"ctr", "task", "list"})
	if err != nil {
		return false, fmt.Errorf("list the tasks: %w: %s", err, output)
	}
	for line := range bytes.Lines(output) {
		if fields := strings.Fields(string(line)); len(fields) == 3 && fields[0] == container {
			return fields[2] == "RUNNING", nil
		}
	}
	return false, nil
}
