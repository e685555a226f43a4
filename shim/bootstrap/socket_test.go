package bootstrap

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestSocketFor(t *testing.T) {
	base, err := socketFor("/run/s", "/c", "ns", "pod")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[Socket]bool{base: true}
	for _, other := range [][3]string{{"/d", "ns", "pod"}, {"/c", "other", "pod"}, {"/c", "ns", "pod2"}, {"/c", "ns/" + Runtime, "pod"}} {
		s, err := socketFor("/run/s", other[0], other[1], other[2])
		if err != nil || seen[s] {
			t.Errorf("%v: %s, %v", other, s, err)
		}
		seen[s] = true
	}
	if parsed, ok := ParseAddress(base.Address()); !ok || parsed != base {
		t.Errorf("address %q parses as %q", base.Address(), parsed)
	}
	for _, dir := range []string{"relative", "/" + strings.Repeat("x", 50)} {
		if _, err := socketFor(dir, "/c", "ns", "pod"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("directory %s: %v", dir, err)
		}
	}
	if _, ok := ParseAddress("unix://relative"); ok {
		t.Error("a relative path was taken")
	}
}
