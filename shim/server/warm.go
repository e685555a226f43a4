package server

import (
	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	"github.com/pvelxc/pvelxc/shim/container"
)

// warm prepares for the container that containerd will ask for as soon as it has connected: meanwhile there is nothing else to do.
// Protobuf looks at a message's type when the first of it is handled, which takes a tenth of a millisecond each.
func warm() {
	container.Expect()
	go func() {
		for _, message := range []proto.Message{
			&ttrpc.Request{}, &ttrpc.Response{}, &types.Envelope{}, &types.Mount{}, &api.CreateTaskRequest{}, &api.CreateTaskResponse{},
			&api.StartRequest{}, &api.StartResponse{}, &events.TaskCreate{}, &events.TaskStart{},
		} {
			proto.Size(message)
		}
	}()
}
