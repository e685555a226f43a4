package daemon

import (
	"context"
	"errors"
	"time"
)

type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent marks an error that [Poll] gives up on.
func Permanent(err error) error { return permanent{err} }

// Poll calls try with growing pauses until it returns nil, a [Permanent] error, or ctx ends; then it
// returns the last error.
func Poll(ctx context.Context, try func() error) error {
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		err := try()
		if err == nil {
			return nil
		}
		var stop permanent
		if errors.As(err, &stop) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}
