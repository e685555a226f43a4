package layer_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func needsRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: owners and device nodes")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// copyTree copies all that a file system knows of a tree.
func copyTree(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "tree")
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	return to
}

func open(t testing.TB, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// manifest tells all of a tree, one line a name. Times are those of files, in seconds or nanoseconds, and of directories
// when dirTimes is set.
func manifest(t testing.TB, root string, nanoseconds, dirTimes bool) string {
	t.Helper()
	var lines []string
	first := map[uint64]string{}
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		if rel == "." {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
			return nil
		}
		line := fmt.Sprintf("%q %o %d:%d", rel, st.Mode, st.Uid, st.Gid)
		dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if !dir {
			line += fmt.Sprintf(" %d", st.Mtim.Sec)
			if nanoseconds {
				line += fmt.Sprintf(".%09d", st.Mtim.Nsec)
			}
			if of, ok := first[st.Ino]; ok {
				line += fmt.Sprintf(" =%q", of)
			}
			first[st.Ino] = rel
		} else if dirTimes {
			line += fmt.Sprintf(" %d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			raw, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", len(raw), sha256.Sum256(raw))
		case unix.S_IFLNK:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + to
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" dev %d", st.Rdev)
		}
		buf := make([]byte, 4096)
		n, err := unix.Llistxattr(p, buf)
		if err == nil {
			names := strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00")
			sort.Strings(names)
			for _, x := range names {
				v := make([]byte, 4096)
				if n, err := unix.Lgetxattr(p, x, v); err == nil {
					line += fmt.Sprintf(" %s=%q", x, v[:n])
				}
			}
		}
		lines = append(lines, line)
		return nil
	})
	must(t, err)
	return strings.Join(lines, "\n") + "\n"
}

// gardener makes and changes trees at random.
type gardener struct {
	t testing.TB
	*rand.Rand
	root string
	n    int
}

// names are what layers have been seen to get wrong.
var names = []string{
	"a", "b", "a-b", "a.b", "a b", "A", "é", "日本", "e\u0301", "\xff\xfe", "nl\n", ".hidden", "..x", "wh.", "-", strings.Repeat("n", 101), strings.Repeat("l", 255),
	"0", "~", "\\", "\"q\"", "%s", "x=y",
}

func (g *gardener) name() string {
	g.n++
	n := names[g.IntN(len(names))]
	if g.IntN(3) > 0 {
		n = fmt.Sprintf("%.200s%d", n, g.n%17)
	}
	return n
}

// pick gives a path below the root that is of a kind; "" when there is none.
func (g *gardener) pick(is func(fs.FileMode) bool) string {
	var l []string
	must(g.t, filepath.WalkDir(g.root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && p != g.root && is(d.Type()) {
			l = append(l, p)
		}
		return err
	}))
	if len(l) == 0 {
		return ""
	}
	return l[g.IntN(len(l))]
}

func anyKind(fs.FileMode) bool     { return true }
func isDir(m fs.FileMode) bool     { return m.IsDir() }
func isRegular(m fs.FileMode) bool { return m.IsRegular() }

func (g *gardener) dir() string {
	if g.IntN(4) > 0 {
		if d := g.pick(isDir); d != "" && len(d)-len(g.root) < 2000 {
			return d
		}
	}
	return g.root
}

func (g *gardener) data() []byte {
	b := make([]byte, []int{0, 1, 511, 512, 513, 5000, 70000}[g.IntN(7)])
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	return b
}

// dress sets what else a file has.
func (g *gardener) dress(p string) {
	st, err := os.Lstat(p)
	must(g.t, err)
	must(g.t, os.Lchown(p, []int{0, 1, 1000, 65534, 3000000}[g.IntN(5)], []int{0, 5, 1000}[g.IntN(3)]))
	link := st.Mode()&fs.ModeSymlink != 0
	if !link {
		must(g.t, unix.Chmod(p, []uint32{0o644, 0o755, 0o600, 0, 0o4755, 0o2755, 0o1777, 0o7777, 0o444}[g.IntN(9)]))
		if st.Mode().IsRegular() && g.IntN(4) == 0 {
			// cap_net_raw=ep, in the format of vfs_ns_cap_data version 2.
			v := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
			v[5] = byte(1 << g.IntN(6))
			must(g.t, unix.Setxattr(p, "security.capability", v, 0))
		}
	}
	g.touch(p)
}

func (g *gardener) touch(p string) {
	ts := unix.Timespec{Sec: []int64{0, 1, 1600000000, time.Now().Unix()}[g.IntN(4)]}
	if g.IntN(3) == 0 {
		ts.Nsec = int64(g.IntN(1e9))
	}
	must(g.t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

// plant makes something new.
func (g *gardener) plant() {
	p := filepath.Join(g.dir(), g.name())
	if _, err := os.Lstat(p); err == nil || len(p) > 3000 {
		return
	}
	switch g.IntN(12) {
	case 0, 1, 2, 3:
		must(g.t, os.WriteFile(p, g.data(), 0o644))
	case 4, 5, 6:
		must(g.t, os.Mkdir(p, 0o755))
	case 7:
		must(g.t, os.Symlink([]string{"a", "../b", "/etc/passwd", "/", ".", strings.Repeat("x/", 300)}[g.IntN(6)], p))
	case 8:
		if old := g.pick(isRegular); old != "" {
			must(g.t, os.Link(old, p))
		}
		return
	case 9:
		must(g.t, unix.Mknod(p, []uint32{unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO}[g.IntN(3)]|0o640, int(unix.Mkdev(uint32(g.IntN(300)), uint32(g.IntN(70000))))))
	case 10:
		must(g.t, unix.Mknod(p, unix.S_IFSOCK|0o777, 0))
		return
	case 11:
		f, err := os.Create(p)
		must(g.t, err)
		must(g.t, f.Truncate(int64(g.IntN(1<<18))))
		_, err = f.WriteAt([]byte("end"), 1<<17)
		must(g.t, err)
		f.Close()
	}
	g.dress(p)
}

// change changes something that is there.
func (g *gardener) change() {
	p := g.pick(anyKind)
	if p == "" {
		return
	}
	st, err := os.Lstat(p)
	must(g.t, err)
	switch g.IntN(8) {
	case 0, 1:
		must(g.t, os.RemoveAll(p))
	case 2:
		// Something of another kind in its place.
		must(g.t, os.RemoveAll(p))
		if st.IsDir() {
			must(g.t, os.WriteFile(p, g.data(), 0o644))
		} else {
			must(g.t, os.Mkdir(p, 0o755))
			must(g.t, os.WriteFile(p+"/inside", g.data(), 0o644))
		}
		g.dress(p)
	case 3:
		if st.Mode()&fs.ModeSocket == 0 {
			g.dress(p)
		}
	case 4:
		if st.Mode().IsRegular() {
			must(g.t, os.WriteFile(p, g.data(), 0o644))
			g.touch(p)
		}
	case 5:
		// Other content, and size and time as before. With nanoseconds in it containerd's differ does not see that.
		if st.Mode().IsRegular() && st.Size() > 0 && st.ModTime().Nanosecond() == 0 {
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			must(g.t, err)
			_, err = f.WriteAt([]byte{byte(g.Uint32())}, g.Int64N(st.Size()))
			must(g.t, err)
			f.Close()
			m := syscall.NsecToTimespec(st.ModTime().UnixNano())
			ts := unix.Timespec{Sec: m.Sec, Nsec: m.Nsec}
			must(g.t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
		}
	case 6:
		to := filepath.Join(g.dir(), g.name())
		if _, err := os.Lstat(to); err != nil && !strings.HasPrefix(to, p+"/") {
			must(g.t, os.Rename(p, to))
		}
	case 7:
		if st.IsDir() {
			// Made anew: opaque, as overlayfs would have it.
			must(g.t, os.RemoveAll(p))
			must(g.t, os.Mkdir(p, 0o755))
		}
	}
}

// pair is a tree and what became of it.
func pair(t testing.TB, seed uint64, size, changes int) (lower, upper string) {
	g := &gardener{t: t, Rand: rand.New(rand.NewPCG(seed, 0)), root: t.TempDir()}
	for range size {
		g.plant()
	}
	lower = g.root
	upper = copyTree(t, lower)
	g.root = upper
	for range changes {
		if g.IntN(2) == 0 {
			g.plant()
		} else {
			g.change()
		}
	}
	return lower, upper
}
