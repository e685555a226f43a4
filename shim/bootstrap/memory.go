package bootstrap

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/containerd/ttrpc"
)

const (
	// processors is GOMAXPROCS of the shim.
	processors = 2
	// gcPercent trades CPU that an idle shim has for memory that each pod pays.
	gcPercent = 25
	// quiet is how long after a request the shim returns the memory it took.
	quiet = 3 * time.Second
)

// trimAfterStart returns what start-up needed: package initialisation is most of a shim's garbage.
func trimAfterStart() {
	debug.SetGCPercent(gcPercent)
	time.AfterFunc(quiet, debug.FreeOSMemory)
}

// trimMemory returns unused memory to the system when the shim falls quiet. There is no ticker: an idle shim does not wake up.
func trimMemory() ttrpc.UnaryServerInterceptor {
	timer := time.AfterFunc(quiet, debug.FreeOSMemory)
	return func(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
		defer timer.Reset(quiet)
		return method(ctx, unmarshal)
	}
}
