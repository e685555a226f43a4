// Command bench measures the shim against containerd-shim-runc-v2 with runc and with crun.
//
// All runtimes are measured in one run: every round measures each of them once, in an order that
// rotates, so that a slow minute of the machine is a slow minute for all. What it prints are medians
// and their ratios; the ratios are what travels to another machine. It writes out/bench.json.
//
//	bench [-cri] [-rounds N] [-rows a,b] [-o FILE]
//
// With -cri it measures pods, through containerd's CRI, against the runtime handler of runc: ours with pause containers, and with
// sandboxes that the shim holds (ours-shim).
//
// It runs in a mount, PID and network namespace of its own and leaves nothing behind.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func main() {
	harness.Sandboxed(run)
}

func run() int {
	rounds := flag.Int("rounds", 20, "how often each runtime is measured, for each row")
	rows := flag.String("rows", "", "comma-separated names of the rows to measure; empty for all")
	out := flag.String("o", "", "where to write the results as JSON; empty for nowhere")
	runtimes := flag.String("runtimes", "", "comma-separated names of the runtimes; empty for all")
	pods := flag.Bool("cri", false, "measure pods")
	flag.IntVar(&atOnce, "pods", atOnce, "how many pods the rows of -cri with several have")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	results, err := results(ctx, *pods, split(*runtimes), *rounds, split(*rows))
	if err == nil {
		err = report(results, *out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

func results(ctx context.Context, pods bool, runtimes []string, rounds int, rows []string) ([]result, error) {
	if pods {
		b, err := newPodBench(ctx)
		if err != nil {
			return nil, err
		}
		defer b.close()
		return measure(ctx, b.subjects, b.rows(), rounds, rows)
	}
	b, err := newBench(ctx, runtimes)
	if err != nil {
		return nil, err
	}
	defer b.close()
	return measure(ctx, b.subjects, b.rows(), rounds, rows)
}

func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}
