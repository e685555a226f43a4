// Package garbage is what an administrator's command asks the daemon: what of the pool nothing uses any more, and to
// destroy it. It is a gRPC service on the daemon's socket, beside containerd's, whose messages are protobuf's own
// well-known types.
package garbage

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// Item is a dataset or snapshot that nothing uses.
type Item struct {
	Name string
	// Reason is why it is there, for people.
	Reason string
	// Kept is not destroyed by Reclaim: whether it is wanted only a person can tell.
	Kept bool
}

// Collector is who knows. A snapshotter.Snapshotter is one.
type Collector interface {
	// Garbage lists what there is, and changes nothing.
	Garbage(ctx context.Context) ([]Item, error)
	// Reclaim destroys what is not Kept, as far as that is possible now: what is in use stays for later.
	Reclaim(ctx context.Context) error
}

const service = "pvelxc.snapshotter.v1.Garbage"

// Register has a server answer for a Collector.
func Register(s grpc.ServiceRegistrar, c Collector) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: service,
		HandlerType: (*Collector)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "List", Handler: handler("List", func(ctx context.Context, c Collector) (any, error) {
				items, err := c.Garbage(ctx)
				if err != nil {
					return nil, err
				}
				return encode(items)
			})},
			{MethodName: "Reclaim", Handler: handler("Reclaim", func(ctx context.Context, c Collector) (any, error) {
				return &emptypb.Empty{}, c.Reclaim(ctx)
			})},
		},
		Metadata: "pvelxc/snapshotter/garbage",
	}, c)
}

func handler(method string, answer func(context.Context, Collector) (any, error)) grpc.MethodHandler {
	return func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		in := new(emptypb.Empty)
		if err := decode(in); err != nil {
			return nil, err
		}
		next := func(ctx context.Context, _ any) (any, error) { return answer(ctx, srv.(Collector)) }
		if interceptor == nil {
			return next(ctx, in)
		}
		return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/" + service + "/" + method}, next)
	}
}

// Client asks a daemon at the other end of a connection. It is a Collector.
type Client struct{ Conn grpc.ClientConnInterface }

var _ Collector = Client{}

// Garbage implements Collector.
func (c Client) Garbage(ctx context.Context) ([]Item, error) {
	list := new(structpb.ListValue)
	if err := c.Conn.Invoke(ctx, "/"+service+"/List", &emptypb.Empty{}, list); err != nil {
		return nil, fmt.Errorf("ask for garbage: %w", err)
	}
	return decode(list), nil
}

// Reclaim implements Collector.
func (c Client) Reclaim(ctx context.Context) error {
	if err := c.Conn.Invoke(ctx, "/"+service+"/Reclaim", &emptypb.Empty{}, &emptypb.Empty{}); err != nil {
		return fmt.Errorf("reclaim garbage: %w", err)
	}
	return nil
}

func encode(items []Item) (*structpb.ListValue, error) {
	values := make([]any, len(items))
	for i, item := range items {
		values[i] = map[string]any{"name": item.Name, "reason": item.Reason, "kept": item.Kept}
	}
	return structpb.NewList(values)
}

// decode takes what it knows: a newer daemon may say more.
func decode(list *structpb.ListValue) []Item {
	items := make([]Item, len(list.GetValues()))
	for i, v := range list.GetValues() {
		f := v.GetStructValue().GetFields()
		items[i] = Item{Name: f["name"].GetStringValue(), Reason: f["reason"].GetStringValue(), Kept: f["kept"].GetBoolValue()}
	}
	return items
}
