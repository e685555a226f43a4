package garbage

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/pvelxc/pvelxc/snapshotter/garbage"
)

// askTimeout bounds a question to the snapshotter, reclaimTimeout what it then destroys.
const (
	askTimeout     = 30 * time.Second
	reclaimTimeout = 90 * time.Second
)

// Datasets asks the snapshotter at a socket. It alone knows what it is about to make, so it is not done without it: a
// daemon that systemd starts by its socket always answers.
func Datasets(address string) Source {
	return Source{Name: "datasets", Find: func(ctx context.Context) ([]Item, error) {
		found, err := ask(ctx, address)
		if err != nil {
			return nil, err
		}
		// All are removed by one request.
		reclaim := sync.OnceValues(func() (map[string]string, error) { return reclaim(ctx, address) })
		items := make([]Item, len(found))
		for i, f := range found {
			kind := "dataset"
			if strings.Contains(f.Name, "@") {
				kind = "snapshot"
			}
			items[i] = Item{Kind: kind, Name: f.Name, Reason: f.Reason, Kept: f.Kept, remove: func(context.Context) error {
				left, err := reclaim()
				if err != nil {
					return err
				}
				if reason, there := left[f.Name]; there {
					return inUse(reason)
				}
				return nil
			}}
		}
		return items, nil
	}}
}

func dial(ctx context.Context, address string) (*grpc.ClientConn, error) {
	// A socket that is not there is told at once, and not after gRPC's attempts.
	probe, err := (&net.Dialer{}).DialContext(ctx, "unix", address)
	if err == nil {
		probe.Close()
		var conn *grpc.ClientConn
		if conn, err = grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials())); err == nil {
			return conn, nil
		}
	}
	return nil, fmt.Errorf("the snapshotter does not answer: %w (hint: systemctl start pvelxc-snapshotter.socket)", err)
}

func ask(ctx context.Context, address string) ([]garbage.Item, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := dial(ctx, address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	items, err := garbage.Client{Conn: conn}.Garbage(ctx)
	if status.Code(err) == codes.Unimplemented {
		err = fmt.Errorf("%w (hint: it is of a former version: systemctl restart pvelxc-snapshotter)", err)
	}
	return items, err
}

// reclaim has all destroyed, and returns what is there still, with reasons.
func reclaim(ctx context.Context, address string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, reclaimTimeout)
	defer cancel()
	conn, err := dial(ctx, address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := garbage.Client{Conn: conn}
	if err := client.Reclaim(ctx); err != nil {
		return nil, err
	}
	items, err := client.Garbage(ctx)
	if err != nil {
		return nil, err
	}
	left := make(map[string]string, len(items))
	for _, i := range items {
		left[i.Name] = i.Reason
	}
	return left, nil
}
