package zfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// PoolState is what the kernel says of a pool, without waiting for it: "ONLINE", "DEGRADED", "SUSPENDED", ….
// proc is /proc. A pool that is not imported is ErrNotExist.
func PoolState(proc, pool string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(proc, "spl/kstat/zfs", pool, "state"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", &Error{Op: "look at", Name: pool, Kind: ErrNotExist, Detail: "the pool is not imported"}
	}
	if err != nil {
		return "", fmt.Errorf("state of pool %s: %w", pool, err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// CheckPool says whether a pool can be used: an error that is ErrNotExist or ErrSuspended when it cannot.
func CheckPool(proc, pool string) error {
	state, err := PoolState(proc, pool)
	if err != nil {
		return err
	}
	switch state {
	case "SUSPENDED", "FAULTED", "UNAVAIL", "REMOVED":
		return &Error{Op: "use", Name: pool, Kind: ErrSuspended, Detail: "its state is " + state}
	}
	return nil
}
