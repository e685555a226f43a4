// Package setup installs pvelxc into a node's containerd and takes it out again: ordered
// steps, each of which can say what it would change, do it, and undo it.
//
//	preflight ─▶ dataset ─▶ settings ─▶ containerd ─▶ config-dump ─▶ snapshotter ─▶ timer ─▶ restart ─▶ hello
//
// A step that has nothing to change does nothing, so a run may be repeated. Where one fails,
// it and all that this run did before it are undone, the last first.
package setup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Step is one thing that is to be so. Functions that are nil have nothing to do.
type Step struct {
	Name string
	// Check asks what must be so before anything else, in a dry run too. What it returns is told.
	Check func(ctx context.Context) (string, error)
	// Plan says what Do would change, as text for people; empty for nothing. It changes nothing.
	Plan func(ctx context.Context) (string, error)
	Do   func(ctx context.Context) error
	// Verify asks whether it is so, after Do, or when Do had nothing to do. What it returns is told.
	Verify func(ctx context.Context) (string, error)
	// Undo takes Do back. It may be called after a Do that failed half way, and must not
	// touch what this run did not make.
	Undo func(ctx context.Context) error
}

// Event is told as steps go on.
type Event struct {
	// Number counts from 1 to Of.
	Number, Of int
	Step       string
	// State is Begins, then one of the others.
	State State
	// Text is the change, or what Verify said.
	Text string
}

// State is how far a step is.
type State string

// The states of an Event.
const (
	Begins  State = "begins"
	Already State = "already"
	Would   State = "would"
	Done    State = "done"
	Failed  State = "failed"
	Undone  State = "undone"
	Stuck   State = "not undone"
)

// Failure says which step failed and what became of the others.
type Failure struct {
	Step string
	Err  error
	// Undone are the steps that were taken back, Stuck those that could not be.
	Undone []string
	Stuck  []error
}

// Error reads "step containerd: why; rolled back: containerd, dataset".
func (f *Failure) Error() string {
	text := fmt.Sprintf("step %s: %v", f.Step, f.Err)
	if len(f.Undone) > 0 {
		text += "; rolled back: " + strings.Join(f.Undone, ", ")
	} else {
		text += "; nothing was changed"
	}
	if err := errors.Join(f.Stuck...); err != nil {
		text += "; NOT rolled back: " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return text
}

// Unwrap gives the cause.
func (f *Failure) Unwrap() error { return f.Err }

// undoTimeout bounds a rollback, which outlives the request.
const undoTimeout = 5 * time.Minute

// Run takes the steps in order; with dryRun it only tells what they would change.
func Run(ctx context.Context, steps []Step, dryRun bool, tell func(Event)) error {
	var done []Step
	for i, s := range steps {
		event := Event{Number: i + 1, Of: len(steps), Step: s.Name, State: Begins}
		tell(event)
		changed, err := run(ctx, s, dryRun, &event)
		if changed {
			done = append(done, s)
		}
		if err != nil {
			event.State, event.Text = Failed, err.Error()
			tell(event)
			return rollBack(ctx, done, &Failure{Step: s.Name, Err: err}, event, tell)
		}
		tell(event)
	}
	return nil
}

// run takes one step; changed says that something may have to be undone.
func run(ctx context.Context, s Step, dryRun bool, event *Event) (changed bool, err error) {
	event.State, event.Text = Already, ""
	if s.Check != nil {
		if event.Text, err = s.Check(ctx); err != nil {
			return false, err
		}
	}
	change := ""
	if s.Plan != nil {
		if change, err = s.Plan(ctx); err != nil {
			return false, err
		}
	}
	if change != "" {
		event.State, event.Text = Done, change
		if dryRun {
			event.State = Would
			return false, nil
		}
		changed = true
		if err := s.Do(ctx); err != nil {
			return changed, err
		}
	}
	if dryRun || s.Verify == nil {
		return changed, nil
	}
	said, err := s.Verify(ctx)
	if said != "" {
		event.Text = said
	}
	return changed, err
}

func rollBack(ctx context.Context, done []Step, f *Failure, event Event, tell func(Event)) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	slices.Reverse(done)
	for _, s := range done {
		if s.Undo == nil {
			continue
		}
		event.Step, event.State, event.Text = s.Name, Undone, ""
		if err := s.Undo(ctx); err != nil {
			f.Stuck = append(f.Stuck, fmt.Errorf("%s: %w", s.Name, err))
			event.State, event.Text = Stuck, err.Error()
		} else {
			f.Undone = append(f.Undone, s.Name)
		}
		tell(event)
	}
	return f
}
