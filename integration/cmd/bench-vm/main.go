// Command bench-vm measures pvelxc-snapshotter against containerd's snapshotters, in the test VM and on one pool: its
// own on ZFS (github.com/containerd/zfs), overlayfs on ext4, and overlayfs on ZFS. Each is a process of its own behind a
// socket, as containerd has them.
//
//	bench-vm [-rounds N] [-containers N] [-o FILE]
//
// Every round measures each of them once, in an order that rotates, so that a slow minute of the machine is a slow
// minute for all. Times are medians; what travels to another machine are their ratios, ours to the peer's, and the counts.
// It wants VM_POOL_DEVICE, PVELXC_BIN, PVELXC_PEERS and a TMPDIR on ext4.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	rounds := flag.Int("rounds", 7, "how often each snapshotter is measured, for each row")
	containers := flag.Int("containers", 2000, "containers of the density row")
	out := flag.String("o", "", "where the JSON goes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *rounds, *containers, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench-vm:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, rounds, containers int, out string) (err error) {
	g, err := newGround()
	if err != nil {
		return err
	}
	defer func() {
		if e := g.close(); err == nil {
			err = e
		}
	}()
	b := &bench{ctx: ctx, g: g, rounds: rounds, containers: containers}
	for _, part := range []func() error{b.counts, b.times, b.usage, b.unpack, b.density} {
		// What was measured before a failure is kept.
		if err := part(); err != nil {
			return errors.Join(err, report(b.rows, out))
		}
	}
	return report(b.rows, out)
}
