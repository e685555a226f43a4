package container

import (
	"fmt"
	"os"
	"syscall"

	"github.com/pvelxc/pvelxc/shim/reaper"
	"github.com/pvelxc/pvelxc/shim/stdio"
)

// spawn starts one of the C programs with a process's streams as 0, 1 and 2 and
// the files of extra from 3 on, in a session of its own: a signal to the shim's
// group is not the container's. It has no environment.
func spawn(program Executable, args []string, child stdio.Child, extra ...*os.File) (int, <-chan reaper.Exit, error) {
	return spawnWith(&syscall.SysProcAttr{Setsid: true}, program, args, child, extra...)
}

func spawnWith(attr *syscall.SysProcAttr, program Executable, args []string, child stdio.Child, extra ...*os.File) (int, <-chan reaper.Exit, error) {
	fds := []uintptr{child.Stdin.Fd(), child.Stdout.Fd(), child.Stderr.Fd()}
	for _, f := range extra {
		fds = append(fds, f.Fd())
	}
	pid, exits, err := reaper.ForkExec(program.run(), append([]string{program.Path}, args...), &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{},
		Files: fds,
		Sys:   attr,
	})
	if err != nil {
		return 0, nil, fmt.Errorf("%s: %w", program.Path, err)
	}
	return pid, exits, nil
}
