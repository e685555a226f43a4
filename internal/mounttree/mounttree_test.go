package mounttree

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts are made")
	}
}

func statx(t *testing.T, f *os.File) unix.Statx_t {
	t.Helper()
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// flags are ST_* of statvfs(3): what the mount does, not what was asked for.
func flags(t *testing.T, f *os.File) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Flags
}

func TestCloneAndAttributes(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	tree, err := Clone(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	const on = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOATIME
	if err := SetAttr(tree, Attr{Set: on, Propagation: unix.MS_PRIVATE, Recursive: true}); err != nil {
		t.Fatal(err)
	}
	const want = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NOATIME
	if got := flags(t, tree); got&want != want {
		t.Errorf("flags are %#x, want all of %#x", got, want)
	}
	// Another access time mode replaces the first: they are one field.
	if err := SetAttr(tree, Attr{Set: unix.MOUNT_ATTR_STRICTATIME, Clear: unix.MOUNT_ATTR_RDONLY}); err != nil {
		t.Fatal(err)
	}
	if got := flags(t, tree); got&(unix.ST_NOATIME|unix.ST_RDONLY) != 0 {
		t.Errorf("flags are %#x, want neither NOATIME nor RDONLY", got)
	}
	if isDir, err := IsDir(tree); err != nil || !isDir {
		t.Errorf("a directory: %v, %v", isDir, err)
	}
	// The source itself is as it was.
	src, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if flags(t, src)&unix.ST_NOSUID != 0 {
		t.Error("the source's own mount was changed")
	}
}

func TestCloneOfAFile(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tree, err := Clone(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if isDir, err := IsDir(tree); err != nil || isDir {
		t.Errorf("a directory: %v, %v", isDir, err)
	}
}

func TestCloneOfNothing(t *testing.T) {
	needRoot(t)
	_, err := Clone("/nonexistent/x", false)
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/x") {
		t.Errorf("error %v does not name the source", err)
	}
}

func TestNewFilesystem(t *testing.T) {
	needRoot(t)
	tree, err := New("tmpfs", "scratch", []Param{{Key: "mode", Value: "0711"}, {Key: "size", Value: "64k"}}, unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if got := statx(t, tree).Mode & 0o777; got != 0o711 {
		t.Errorf("mode of the root is %#o", got)
	}
	if flags(t, tree)&unix.ST_NOEXEC == 0 {
		t.Error("programs may be executed")
	}
	for name, test := range map[string]struct {
		fstype string
		param  Param
		want   string
	}{
		"type":   {"nosuchfs", Param{}, "nosuchfs"},
		"option": {"tmpfs", Param{Key: "nosuchoption", Flag: true}, "nosuchoption"},
		"value":  {"tmpfs", Param{Key: "size", Value: "many"}, "size"},
	} {
		if tree, err := New(test.fstype, "x", []Param{test.param}, 0); err == nil {
			tree.Close()
			t.Errorf("bad %s: no error", name)
		} else if !strings.Contains(err.Error(), test.want) {
			t.Errorf("bad %s: error %v does not say %q", name, err, test.want)
		}
	}
}

func TestSplitLayers(t *testing.T) {
	long := strings.Repeat("/a-layer-with-a-name:", 20) + "/last"
	got := splitLayers("overlay", []Param{{Key: "lowerdir", Value: long}, {Key: "index", Value: "off"}})
	if len(got) != 22 || got[0] != (Param{Key: "lowerdir+", Value: "/a-layer-with-a-name"}) || got[20].Value != "/last" {
		t.Errorf("a long list became %v", got)
	}
	for name, p := range map[string]Param{
		"short":     {Key: "lowerdir", Value: "/a:/b"},
		"escaped":   {Key: "lowerdir", Value: strings.Repeat(`/a\:b:`, 60) + "/c"},
		"data-only": {Key: "lowerdir", Value: strings.Repeat("/a:", 100) + ":/c"},
		"other key": {Key: "upperdir", Value: strings.Repeat("/a", 200)},
	} {
		if diff := cmp.Diff([]Param{p}, splitLayers("overlay", []Param{p})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
