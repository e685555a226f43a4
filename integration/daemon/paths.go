package daemon

import (
	"os"
	"path/filepath"
)

// Bin is the directory of the binaries under test: $PVELXC_BIN, else bin/ of the checkout.
func Bin() string { return directory("PVELXC_BIN", "bin") }

// Peers is the directory of the built peers: $PVELXC_PEERS, else out/peers of the checkout.
func Peers() string { return directory("PVELXC_PEERS", "out/peers") }

// directory is the value of variable or, without one, path below the checkout that the working
// directory is in. It is always absolute.
func directory(variable, path string) string {
	if set := os.Getenv(variable); set != "" {
		if abs, err := filepath.Abs(set); err == nil {
			return abs
		}
	}
	dir, err := os.Getwd()
	if err != nil {
		return filepath.Join("/", path)
	}
	for up := dir; up != "/"; up = filepath.Dir(up) {
		if _, err := os.Stat(filepath.Join(up, "integration", "go.mod")); err == nil {
			return filepath.Join(up, path)
		}
	}
	return filepath.Join(dir, path)
}
