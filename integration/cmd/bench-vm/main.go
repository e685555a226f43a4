// Command bench-vm measures pvelxc-snapshotter against containerd's snapshotters, in the test VM and on one pool: its
// own on ZFS (github.com/containerd/zfs), overlayfs on ext4, and overlayfs on ZFS. Each is a process of its own behind a
// socket, as containerd has them.
//
//	bench-vm [-v] [-run REGEXP] [-rounds N] [-containers N] [-patience TIME] [-scale N] [-o FILE]
//
// Every round measures each of them once, in an order that rotates, so that a slow minute of the machine is a slow
// minute for all. Times are medians; what travels to another machine are their ratios, ours to the peer's, and the counts.
// The parts are counts, times, usage, unpack and density; -run chooses among them.
//
// It wants VM_POOL_DEVICE, PVELXC_BIN, PVELXC_PEERS and a TMPDIR on ext4.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

func main() {
	verbose := flag.Bool("v", false, "show what the snapshotters log")
	parts := flag.String("run", "", "only the parts whose name matches")
	rounds := flag.Int("rounds", 7, "how often each snapshotter is measured, for each row")
	containers := flag.Int("containers", 2000, "containers of the density row")
	patience := flag.Duration("patience", 8*time.Minute, "how long containers of the density row are made, at most")
	scale := flag.Int("scale", 1, "divides the numbers of files, to see the bench itself work")
	out := flag.String("o", "", "where the JSON goes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	b := &bench{ctx: ctx, rounds: *rounds, containers: *containers, patience: *patience, scale: max(1, *scale)}
	if err := b.run(*verbose, *parts, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench-vm:", err)
		os.Exit(1)
	}
}

func (b *bench) run(verbose bool, parts, out string) (err error) {
	chosen, err := regexp.Compile(parts)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	g, err := newGround()
	if err != nil {
		return err
	}
	defer func() {
		if e := g.close(); err == nil {
			err = e
		}
	}()
	g.verbose = verbose
	b.g = g
	for _, part := range []struct {
		name string
		fn   func() error
	}{{"counts", b.counts}, {"times", b.times}, {"usage", b.usage}, {"unpack", b.unpack}, {"density", b.density}} {
		if !chosen.MatchString(part.name) {
			continue
		}
		start := time.Now()
		// What was measured before a failure is kept.
		if err := part.fn(); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", part.name, err), report(b.rows, out))
		}
		fmt.Fprintf(os.Stderr, "bench-vm: %s took %.0f s\n", part.name, time.Since(start).Seconds())
	}
	return report(b.rows, out)
}
