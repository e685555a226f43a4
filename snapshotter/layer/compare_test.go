package layer_test

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/google/go-cmp/cmp"

	"github.com/pvelxc/pvelxc/snapshotter/layer"
)

// What Compare writes is what containerd's differ writes, to the byte, and applied it makes the one tree the other.
func TestCompareIsContainerds(t *testing.T) {
	needsRoot(t)
	seeds := uint64(40)
	if testing.Short() {
		seeds = 8
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			lower, upper := pair(t, seed, 40+int(seed), int(seed)*2)
			var newest *time.Time
			if seed%5 == 4 {
				at := time.Unix(1500000000, 0)
				newest = &at
			}
			var want, got bytes.Buffer
			must(t, archive.WriteDiff(t.Context(), &want, lower, upper, archive.WithSourceDateEpoch(newest)))
			must(t, layer.Compare(t.Context(), &got, open(t, lower), open(t, upper), layer.CompareOptions{NewestTime: newest}))
			if !bytes.Equal(want.Bytes(), got.Bytes()) {
				t.Fatalf("another layer than containerd's:\n%s", cmp.Diff(entries(t, want.Bytes()), entries(t, got.Bytes())))
			}
			if newest != nil {
				return
			}
			onto := copyTree(t, lower)
			_, err := layer.Apply(t.Context(), open(t, onto), bytes.NewReader(got.Bytes()))
			must(t, err)
			if d := cmp.Diff(manifest(t, upper, false, false), manifest(t, onto, false, false)); d != "" {
				t.Errorf("applied, it is not the upper tree (-want +got):\n%s", d)
			}
		})
	}
}

// Trees that are the same have an empty layer.
func TestCompareNothing(t *testing.T) {
	needsRoot(t)
	lower, _ := pair(t, 3, 80, 0)
	var got bytes.Buffer
	must(t, layer.Compare(t.Context(), &got, open(t, lower), open(t, lower), layer.CompareOptions{}))
	if e := entries(t, got.Bytes()); len(e) != 0 {
		t.Errorf("%v", e)
	}
}

// A link in the upper tree leads nowhere on the host, and neither does one that takes the place of a directory meanwhile.
func TestCompareDoesNotFollow(t *testing.T) {
	needsRoot(t)
	lower, upper, secret := t.TempDir(), t.TempDir(), t.TempDir()
	must(t, os.WriteFile(secret+"/key", []byte("secret"), 0o600))
	must(t, os.Mkdir(lower+"/d", 0o755))
	must(t, os.Symlink(secret, upper+"/d"))
	must(t, os.Symlink(secret+"/key", upper+"/k"))
	var got bytes.Buffer
	must(t, layer.Compare(t.Context(), &got, open(t, lower), open(t, upper), layer.CompareOptions{}))
	if bytes.Contains(got.Bytes(), []byte("secret\x00")) {
		t.Error("the layer has what a link leads to")
	}
}
