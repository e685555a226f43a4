package inventory

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/containers/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// Sockets are where containerd listens: the distribution's, and that of k3s.
var Sockets = []string{"/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock"}

// Address is containerd's socket: $CONTAINERD_ADDRESS, else the first of Sockets that is
// there, else the first.
func Address() string {
	if set := os.Getenv("CONTAINERD_ADDRESS"); set != "" {
		return strings.TrimPrefix(set, "unix://")
	}
	for _, socket := range Sockets {
		if _, err := os.Stat(socket); err == nil {
			return socket
		}
	}
	return Sockets[0]
}

// patience bounds a question to containerd: a list without images is better than none.
const patience = 2 * time.Second

// Images asks the containerd at address which image each container of a namespace was made
// from. It is for Options.Images.
func Images(address string) func(ctx context.Context, namespace string) (map[string]string, error) {
	return func(ctx context.Context, namespace string) (map[string]string, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		// The specifications come along and may be many megabytes.
		const most = 256 << 20
		conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(most)))
		if err != nil {
			return nil, fmt.Errorf("ask containerd for images: %w", err)
		}
		defer conn.Close()
		ctx = metadata.AppendToOutgoingContext(ctx, "containerd-namespace", namespace)
		answer, err := containers.NewContainersClient(conn).List(ctx, &containers.ListContainersRequest{})
		if err != nil {
			return nil, fmt.Errorf("ask containerd for images: %w (hint: systemctl status containerd)", err)
		}
		images := make(map[string]string, len(answer.Containers))
		for _, c := range answer.Containers {
			images[c.ID] = c.Image
		}
		return images, nil
	}
}
