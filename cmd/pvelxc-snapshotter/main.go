// Command pvelxc-snapshotter is a containerd proxy plugin: snapshots on ZFS. See package snapshotter.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/coreos/go-systemd/v22/activation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/probe"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "pvelxc-snapshotter:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("pvelxc-snapshotter", flag.ContinueOnError)
	file := flags.String("config", "/etc/pvelxc/snapshotter.toml", "configuration")
	address := flags.String("address", "", "socket to listen on, instead of the configuration's")
	check := flags.Bool("check", false, "check the configuration and end")
	recovery := flags.Bool("recover", false, "rebuild a lost metadata.db from what ZFS knows, and end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	c, err := load(*file)
	if err != nil {
		return err
	}
	if *check {
		fmt.Fprintf(out, "%s is valid\n", *file)
		return nil
	}
	if *recovery {
		return recoverMetadata(ctx, c, out)
	}
	if *address != "" {
		c.Address = *address
	}
	return serve(ctx, *file, c)
}

// recoverMetadata reports what it found, so that an administrator can tell what is missing.
func recoverMetadata(ctx context.Context, c config, out io.Writer) (err error) {
	b, err := probe.Open(ctx, c.Backend)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	r, err := snapshotter.Recover(ctx, snapshotter.Options{Root: c.Root, Dir: c.State, Backend: b})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d layers are known again\n", len(r.Layers))
	for _, name := range r.Nameless {
		fmt.Fprintf(out, "%s is a container's and has lost its name; it stays until it is destroyed by hand\n", name)
	}
	for _, why := range r.Refused {
		fmt.Fprintf(out, "left out, and destroyed at the next start: %s\n", why)
	}
	return nil
}

// dial connects to containerd when something is asked of it first: it is started after us, and waits for us.
func dial(socket string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(defaults.DefaultMaxRecvMsgSize), grpc.MaxCallSendMsgSize(defaults.DefaultMaxSendMsgSize)))
	if err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	return conn, nil
}

// listen takes the socket that systemd passed, or makes one that only root may use. One that nobody listens on any more
// is replaced.
func listen(ctx context.Context, address string) (net.Listener, error) {
	passed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("socket of systemd: %w", err)
	}
	if len(passed) > 0 {
		if len(passed) != 1 || passed[0] == nil {
			return nil, fmt.Errorf("systemd passed %d sockets, want one stream socket", len(passed))
		}
		return passed[0], nil
	}
	if err := os.MkdirAll(filepath.Dir(address), 0o711); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", address)
	if err == nil {
		conn.Close()
		return nil, fmt.Errorf("socket %s: another process listens on it", address)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		if err := os.Remove(address); err != nil {
			return nil, fmt.Errorf("socket: %w", err)
		}
	}
	// The mode of the socket is that of its making.
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", address)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	return l, nil
}
