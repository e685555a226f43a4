package task

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pvelxc/pvelxc/shim/container"
)

// timestamp encodes a time; the zero time, of what has not happened, as containerd's own shims do.
func timestamp(t time.Time) *timestamppb.Timestamp {
	return timestamppb.New(t)
}

func statusOf(status container.Status) task.Status {
	switch status {
	case container.StatusCreated:
		return task.Status_CREATED
	case container.StatusRunning:
		return task.Status_RUNNING
	case container.StatusStopped:
		return task.Status_STOPPED
	case container.StatusPaused:
		return task.Status_PAUSED
	default:
		return task.Status_UNKNOWN
	}
}

// specPrefix is what containerd names the types of runtime-spec, which travel as JSON (core/runtime/typeurl.go).
const specPrefix = "types.containerd.io/opencontainers/runtime-spec/"

func decodeProcess(from *anypb.Any) (*specs.Process, error) {
	return decodeSpec[specs.Process](from, "Process")
}

func decodeResources(from *anypb.Any) (*specs.LinuxResources, error) {
	return decodeSpec[specs.LinuxResources](from, "LinuxResources")
}

// decodeSpec reads a type of any version of runtime-spec; its name is the last part of the type URL.
func decodeSpec[T any](from *anypb.Any, name string) (*T, error) {
	url := from.GetTypeUrl()
	if !strings.HasPrefix(url, specPrefix) || url[strings.LastIndexByte(url, '/')+1:] != name {
		return nil, fmt.Errorf("expected a %s, got type %q: %w", name, url, errdefs.ErrInvalidArgument)
	}
	value := new(T)
	if err := json.Unmarshal(from.GetValue(), value); err != nil {
		return nil, fmt.Errorf("decode %s: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	return value, nil
}

func encodePids(processes []container.ProcessInfo) (*api.PidsResponse, error) {
	response := &api.PidsResponse{}
	for _, p := range processes {
		info := &task.ProcessInfo{Pid: uint32(p.Pid)}
		if p.ExecID != "" {
			details, err := typeurl.MarshalAnyToProto(&options.ProcessDetails{ExecID: p.ExecID})
			if err != nil {
				return nil, fmt.Errorf("encode details of process %d: %w", p.Pid, err)
			}
			info.Info = details
		}
		response.Processes = append(response.Processes, info)
	}
	return response, nil
}

func encodeStats(stats any) (*api.StatsResponse, error) {
	value, err := typeurl.MarshalAnyToProto(stats)
	if err != nil {
		return nil, fmt.Errorf("encode metrics %T: %w", stats, err)
	}
	return &api.StatsResponse{Stats: value}, nil
}
