package container

import (
	"time"

	"github.com/containerd/containerd/api/events"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Status is the phase of a process.
type Status int

// The phases, see the package documentation.
const (
	StatusUnknown Status = iota
	StatusCreated
	StatusRunning
	StatusStopped
	StatusPaused
)

// String is for messages.
func (s Status) String() string {
	switch s {
	case StatusCreated:
		return "created"
	case StatusRunning:
		return "running"
	case StatusStopped:
		return "stopped"
	case StatusPaused:
		return "paused"
	}
	return "unknown"
}

// Exit is the end of a process.
type Exit struct {
	// Pid is in the shim's PID namespace; 0 when it never ran.
	Pid int
	// Status is 0..255 in the shell's coding: 128 + n for signal n.
	Status uint32
	// At is the zero time while the process has not ended.
	At time.Time
}

// Stdio are the streams as containerd named them: FIFOs, binary:// or file:// URIs,
// empty for none.
type Stdio struct {
	Stdin, Stdout, Stderr string
	// Terminal says that there is one stream, a terminal; Stderr is unused then.
	Terminal bool
}

// State is a snapshot of a process.
type State struct {
	ID, ExecID, Bundle string
	Pid                int
	Status             Status
	Stdio              Stdio
	Exit               Exit
}

// ProcessInfo is a process in the container's cgroup.
type ProcessInfo struct {
	Pid int
	// ExecID is set for the first process of an exec.
	ExecID string
}

func exitEvent(containerID, processID string, e Exit) *events.TaskExit {
	return &events.TaskExit{
		ContainerID: containerID,
		ID:          processID,
		Pid:         uint32(e.Pid),
		ExitStatus:  e.Status,
		ExitedAt:    timestamppb.New(e.At),
	}
}

func deleteEvent(containerID, processID string, e Exit) *events.TaskDelete {
	return &events.TaskDelete{
		ContainerID: containerID,
		ID:          processID,
		Pid:         uint32(e.Pid),
		ExitStatus:  e.Status,
		ExitedAt:    timestamppb.New(e.At),
	}
}
