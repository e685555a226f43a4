package server

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/containerd/ttrpc"
)

const (
	// gcPercent trades CPU, of which an idle shim has plenty, for memory, which each pod pays.
	gcPercent = 25
	// startPercent keeps the collector out of the first container's way: it would run several times while that is created, and
	// all is returned a moment later anyway.
	startPercent = 400
	// quiet is how long after a request the shim returns the memory it took.
	quiet = time.Second
)

// trimmer returns memory to the system when the shim falls quiet. It has no ticker: an idle shim does not wake up.
type trimmer struct{ timer *time.Timer }

// newTrimmer returns a trimmer that goes off once for start-up, and after the requests of each burst.
func newTrimmer() trimmer {
	debug.SetGCPercent(startPercent)
	return trimmer{time.AfterFunc(quiet, trim)}
}

// intercept is a ttrpc.UnaryServerInterceptor.
func (t trimmer) intercept(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	defer t.timer.Reset(quiet)
	return method(ctx, unmarshal)
}

func trim() {
	debug.SetGCPercent(gcPercent)
	debug.FreeOSMemory()
	releaseText()
}
