package layer_test

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

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

// Each thing that a file has makes a difference by itself; none makes one that there is not.
func TestCompareOneThing(t *testing.T) {
	needsRoot(t)
	lower := t.TempDir()
	must(t, os.MkdirAll(lower+"/d/sub", 0o755))
	must(t, os.WriteFile(lower+"/d/file", []byte("content"), 0o644))
	must(t, os.WriteFile(lower+"/d/exact", []byte("content"), 0o644))
	must(t, os.Symlink("one", lower+"/d/link"))
	must(t, unix.Mknod(lower+"/d/dev", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	whole, exact := unix.Timespec{Sec: 1e9}, unix.Timespec{Sec: 1e9, Nsec: 7}
	stamp := func(p string, ts unix.Timespec) {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
	for _, n := range []string{"file", "link", "dev", "sub"} {
		stamp(lower+"/d/"+n, whole)
	}
	stamp(lower+"/d/exact", exact)
	capability := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for name, c := range map[string]struct {
		file   string
		change func(p string)
		want   bool
	}{
		"nothing":         {"file", func(string) {}, false},
		"owner":           {"file", func(p string) { must(t, os.Lchown(p, 7, 0)) }, true},
		"group":           {"file", func(p string) { must(t, os.Lchown(p, 0, 7)) }, true},
		"mode":            {"file", func(p string) { must(t, os.Chmod(p, 0o600)) }, true},
		"setuid":          {"file", func(p string) { must(t, unix.Chmod(p, 0o4644)) }, true},
		"capability":      {"file", func(p string) { must(t, unix.Setxattr(p, "security.capability", capability, 0)) }, true},
		"other attribute": {"file", func(p string) { must(t, unix.Setxattr(p, "user.x", []byte("y"), 0)) }, false},
		"content":         {"file", func(p string) { must(t, os.WriteFile(p, []byte("CONTENT"), 0o644)) }, true},
		"size":            {"file", func(p string) { must(t, os.WriteFile(p, []byte("longer content"), 0o644)) }, true},
		"second":          {"file", func(p string) { whole.Sec++ }, true},
		"nanosecond":      {"file", func(p string) { whole.Nsec++ }, true},
		"exact content":   {"exact", func(p string) { must(t, os.WriteFile(p, []byte("CONTENT"), 0o644)) }, false},
		"link's target":   {"link", func(p string) { must(t, os.Remove(p)); must(t, os.Symlink("two", p)) }, true},
		"link's owner":    {"link", func(p string) { must(t, os.Lchown(p, 7, 0)) }, true},
		"device": {"dev", func(p string) {
			must(t, os.Remove(p))
			must(t, unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
		}, true},
		"kind of device": {"dev", func(p string) {
			must(t, os.Remove(p))
			must(t, unix.Mknod(p, unix.S_IFBLK|0o600, int(unix.Mkdev(1, 3))))
		}, true},
		"directory's mode": {"sub", func(p string) { must(t, os.Chmod(p, 0o700)) }, true},
		"directory's time": {"sub", func(p string) { whole.Sec++ }, false},
	} {
		t.Run(name, func(t *testing.T) {
			whole = unix.Timespec{Sec: 1e9}
			upper := copyTree(t, lower)
			p := upper + "/d/" + c.file
			c.change(p)
			if c.file == "exact" {
				stamp(p, exact)
			} else {
				stamp(p, whole)
			}
			var want, got bytes.Buffer
			must(t, archive.WriteDiff(t.Context(), &want, lower, upper))
			must(t, layer.Compare(t.Context(), &got, open(t, lower), open(t, upper), layer.CompareOptions{}))
			if !bytes.Equal(want.Bytes(), got.Bytes()) {
				t.Errorf("another layer than containerd's:\n%s", cmp.Diff(entries(t, want.Bytes()), entries(t, got.Bytes())))
			}
			if l := entries(t, got.Bytes()); (len(l) > 0) != c.want {
				t.Errorf("%q", l)
			}
		})
	}
}
