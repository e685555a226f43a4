package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/shim/reaper"
)

// hookStderr bounds how much of a failed hook's output becomes part of the error.
const hookStderr = 1024

// hookState is what hooks get on stdin (runtime.md#state).
func (c *Container) hookState(status specs.ContainerState, pid int) *specs.State {
	return &specs.State{
		Version:     specs.Version,
		ID:          c.id,
		Status:      status,
		Pid:         pid,
		Bundle:      c.bundle,
		Annotations: c.plan.Annotations,
	}
}

// runHooks runs hooks one after the other in the shim's namespaces and stops at the
// first that fails. kind is the name in config.json, for the error.
func runHooks(ctx context.Context, kind string, hooks []specs.Hook, state *specs.State) error {
	if len(hooks) == 0 {
		return nil
	}
	input, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode hook state: %w", err)
	}
	for i, h := range hooks {
		if err := runHook(ctx, h, state.Bundle, input); err != nil {
			return fmt.Errorf("hooks.%s[%d] %s: %w", kind, i, h.Path, err)
		}
	}
	return nil
}

func runHook(ctx context.Context, h specs.Hook, dir string, input []byte) error {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(*h.Timeout)*time.Second,
			fmt.Errorf("timed out after %d s", *h.Timeout))
		defer cancel()
	}
	var stderr tail
	cmd := &exec.Cmd{
		Path:   h.Path,
		Args:   h.Args,
		Env:    h.Env,
		Dir:    dir,
		Stdin:  bytes.NewReader(input),
		Stdout: nil,
		Stderr: &stderr,
		// A group of its own, so that a time-out ends what the hook started as well.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
		WaitDelay:   time.Second,
	}
	if len(cmd.Args) == 0 {
		cmd.Args = []string{h.Path}
	}
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would mean the shim's own
	}
	exits, err := reaper.Start(cmd)
	if err != nil {
		return err
	}
	var cause error
	var exit reaper.Exit
	select {
	case exit = <-exits:
	case <-ctx.Done():
		cause = context.Cause(ctx)
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		exit = <-exits
	}
	// A daemon that the hook left behind may hold its stderr open: no error.
	if err := reaper.Release(cmd); err != nil && !errors.Is(err, exec.ErrWaitDelay) && cause == nil && exit.Code() == 0 {
		return err
	}
	switch {
	case cause != nil:
		return fmt.Errorf("%w%s", cause, stderr.suffix())
	case exit.Code() != 0:
		return fmt.Errorf("exit status %d%s", exit.Code(), stderr.suffix())
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct{ buf []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - hookStderr; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) suffix() string {
	s := bytes.TrimSpace(t.buf)
	if len(s) == 0 {
		return ""
	}
	return ": " + string(s)
}
