package cgroup

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Prime writes to a file that lists this very process: then the move goes nowhere.
func TestPrimeMovesNothing(t *testing.T) {
	path := ownProcs()
	if path == "" {
		t.Skip("needs a mounted cgroup hierarchy below " + root)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(strings.Fields(string(data)), strconv.Itoa(os.Getpid())) {
		t.Errorf("%s does not list process %d", path, os.Getpid())
	}
}
