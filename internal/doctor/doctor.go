// Package doctor looks at a node and says what keeps containers from running well on it.
// Each check is a question of its own; all are asked at once, and none changes anything.
package doctor

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// Status is how a check ended, the worse the greater.
type Status int

// The ways in which a check can end.
const (
	// Skipped: the question does not arise on this node.
	Skipped Status = iota
	OK
	Warning
	Failure
)

// String is for people and for JSON.
func (s Status) String() string { return [...]string{"skipped", "ok", "warning", "failure"}[s] }

// MarshalText is String.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Result is the answer of a check. Its JSON keys stay.
type Result struct {
	Name    string `json:"name"`
	Status  Status `json:"status"`
	Message string `json:"message"`
	// Fix is what to type or to do; empty when nothing is wrong.
	Fix string `json:"fix,omitempty"`
	// Mend does it, where it can be done without asking; nil otherwise.
	Mend func(context.Context) error `json:"-"`
	// Took is how long the check took.
	Took time.Duration `json:"tookNanoseconds"`
}

// Check is one question.
type Check struct {
	Name string
	// About is a line for the documentation.
	About string
	Run   func(ctx context.Context, n *Node) Result
}

// patience bounds all checks together: a cluster file system or a pool that hangs is an
// answer, too.
const patience = 20 * time.Second

// Run asks the checks with these names, all for none, and returns their results in the
// order of Checks.
func Run(ctx context.Context, n *Node, names ...string) ([]Result, error) {
	checks, err := selected(names)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	results := make([]Result, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { results[i] = ask(ctx, n, c) })
	}
	wg.Wait()
	return results, nil
}

// ask does not wait for a check longer than ctx: one that hangs in the kernel cannot be ended.
func ask(ctx context.Context, n *Node, c Check) Result {
	start := time.Now()
	done := make(chan Result, 1)
	go func() { done <- c.Run(ctx, n) }()
	var r Result
	select {
	case r = <-done:
	case <-ctx.Done():
		r = Result{Status: Failure, Message: "no answer: " + ctx.Err().Error(), Fix: "look for hanging storage or a hanging cluster file system: dmesg, systemctl status pve-cluster"}
	}
	r.Name, r.Took = c.Name, time.Since(start)
	return r
}

func selected(names []string) ([]Check, error) {
	if len(names) == 0 {
		return Checks, nil
	}
	var out []Check
	known := make([]string, len(Checks))
	for i, c := range Checks {
		known[i] = c.Name
	}
	for _, name := range names {
		found := false
		for _, c := range Checks {
			if c.Name == name {
				out, found = append(out, c), true
			}
		}
		if !found {
			return nil, fmt.Errorf("doctor %.40q: no such check: %w (hint: one of %s)", name, errdefs.ErrNotFound, strings.Join(known, ", "))
		}
	}
	return out, nil
}

// Worst is the worst status of results.
func Worst(results []Result) Status {
	worst := OK
	for _, r := range results {
		worst = max(worst, r.Status)
	}
	return worst
}

func ok(format string, args ...any) Result {
	return Result{Status: OK, Message: fmt.Sprintf(format, args...)}
}

func skipped(format string, args ...any) Result {
	return Result{Status: Skipped, Message: fmt.Sprintf(format, args...)}
}

// warning and failure take the fix first: it is the part that may be forgotten.
func warning(fix, format string, args ...any) Result {
	return Result{Status: Warning, Message: fmt.Sprintf(format, args...), Fix: fix}
}

func failure(fix, format string, args ...any) Result {
	return Result{Status: Failure, Message: fmt.Sprintf(format, args...), Fix: fix}
}

// mendedBy adds what --fix does.
func (r Result) mendedBy(f func(context.Context) error) Result {
	r.Mend = f
	return r
}

func itoa(n int) string { return strconv.Itoa(n) }
