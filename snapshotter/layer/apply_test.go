package layer_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/snapshotter/layer"
)

// entries lists what is in a tar.
func entries(t testing.TB, raw []byte) []string {
	t.Helper()
	var l []string
	r := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return l
		}
		must(t, err)
		l = append(l, strings.TrimSpace(string(h.Typeflag)+" "+h.Name+" "+h.Linkname+" "+h.ModTime.UTC().Format(time.RFC3339)))
	}
}

type entry struct {
	kind byte
	name string
	link string
	data string
}

func pack(t testing.TB, l []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i, e := range l {
		h := &tar.Header{Typeflag: e.kind, Name: e.name, Linkname: e.link, Mode: 0o750, Uid: 10 + i, Gid: 20 + i, ModTime: time.Unix(1700000000+int64(i), 5000), Format: tar.FormatPAX}
		switch e.kind {
		case tar.TypeReg:
			h.Size = int64(len(e.data))
		case tar.TypeChar, tar.TypeBlock:
			h.Devmajor, h.Devminor = 1, 3
		case tar.TypeXGlobalHeader:
			h = &tar.Header{Typeflag: e.kind, Name: e.name, PAXRecords: map[string]string{"comment": "x"}}
		}
		if err := w.WriteHeader(h); err != nil {
			continue
		}
		_, err := io.WriteString(w, e.data[:h.Size])
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// base is a tree with traps: outside is the canary beside it.
func base(t testing.TB, outside string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	for _, d := range []string{"a/b/c", "d", "e/f"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	for _, f := range []string{"a/1", "a/b/2", "d/3", "e/f/4"} {
		must(t, os.WriteFile(filepath.Join(root, f), []byte(f), 0o644))
	}
	for to, l := range map[string]string{
		outside: "abs", "../../../../../../../../.." + outside: "up", "a": "in", "b/c": "a/deep", "missing": "gone", "loop": "loop", "/a/b": "e/root", "in/../d": "odd",
	} {
		must(t, os.Symlink(to, filepath.Join(root, l)))
	}
	old := []unix.Timespec{{Sec: 1e9}, {Sec: 1e9}}
	must(t, filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, p, old, unix.AT_SYMLINK_NOFOLLOW))
	}))
	return root
}

// oracle applies a layer with ours and with containerd's and compares.
func oracle(t testing.TB, raw []byte) {
	t.Helper()
	outside := t.TempDir()
	must(t, os.WriteFile(outside+"/canary", []byte("canary"), 0o600))
	must(t, os.Mkdir(outside+"/a", 0o700))
	before := manifest(t, outside, true, true)
	ours := base(t, outside)
	theirs := base(t, outside)
	_, want := archive.Apply(t.Context(), theirs, bytes.NewReader(raw))
	root, err := os.Open(ours)
	must(t, err)
	defer root.Close()
	_, got := layer.Apply(t.Context(), root, bytes.NewReader(raw))
	if (want == nil) != (got == nil) {
		t.Errorf("containerd: %v; here: %v", want, got)
	}
	if want == nil && got == nil {
		if d := cmp.Diff(manifest(t, theirs, true, false), manifest(t, ours, true, false)); d != "" {
			t.Errorf("another tree than containerd's (-want +got):\n%s", d)
		}
	}
	if after := manifest(t, outside, true, true); after != before {
		t.Errorf("outside of the root:\n%s", cmp.Diff(before, after))
	}
}

func TestApplyIsContainerds(t *testing.T) {
	needsRoot(t)
	file := func(name string) entry { return entry{kind: tar.TypeReg, name: name, data: "data of " + name} }
	dir := func(name string) entry { return entry{kind: tar.TypeDir, name: name} }
	link := func(name, to string) entry { return entry{kind: tar.TypeSymlink, name: name, link: to} }
	hard := func(name, to string) entry { return entry{kind: tar.TypeLink, name: name, link: to} }
	for name, l := range map[string][]entry{
		"plain":                    {dir("x"), file("x/y"), link("x/l", "y"), hard("x/h", "x/y"), {kind: tar.TypeFifo, name: "p"}, {kind: tar.TypeChar, name: "null"}, {kind: tar.TypeBlock, name: "blk"}},
		"without its directories":  {file("p/q/r/s")},
		"root itself":              {dir("./"), dir("/"), file("."), dir("..")},
		"replace":                  {file("a"), dir("d/3"), link("e", "a"), file("in")},
		"merge":                    {dir("a"), dir("a/b"), file("a/new")},
		"dot dot":                  {file("../../../../x"), file("/../y"), file("a/../z"), dir("..//w/")},
		"absolute link":            {file("abs/x"), file("abs/a/x")},
		"link above the root":      {file("up/x")},
		"link inside":              {file("in/x"), file("a/deep/y"), file("e/root/z"), file("odd/o")},
		"dangling":                 {file("gone/x")},
		"loop":                     {file("loop/x")},
		"own links":                {link("l1", "/"), link("l1/l2", ".."), file("l1/l2/l1/x"), link("m", "a/../../.."), file("m/y")},
		"hard link out":            {hard("h", "../../../../../../etc/passwd")},
		"hard link by a link":      {hard("h", "abs/canary")},
		"hard link by a link up":   {hard("h", "up/canary")},
		"hard link to a link":      {hard("h", "abs"), hard("h2", "gone")},
		"hard link to a directory": {hard("h", "a")},
		"hard link to the root":    {hard("h", "/"), hard("h2", ".."), hard("h3", "")},
		"hard link to itself":      {file("s"), hard("s", "s")},
		"hard link to nothing":     {hard("h", "nothing")},
		"whiteout":                 {file("a/.wh.1"), file(".wh.d"), file("e/.wh.nothing")},
		"whiteout of a link":       {file(".wh.abs"), file(".wh.in")},
		"whiteout through a link":  {file("in/.wh.1"), file("abs/.wh.canary")},
		"whiteout of the parent":   {file("a/.wh..")},
		"whiteout of above":        {file("a/.wh...")},
		"whiteout of nothing":      {file("a/.wh.")},
		"whiteout of a whiteout":   {file("a/.wh..wh.x")},
		"opaque":                   {file("a/.wh..wh..opq"), file("a/new")},
		"opaque late":              {file("a/new"), dir("a/b"), file("a/b/new"), file("a/.wh..wh..opq")},
		"opaque twice":             {file("a/.wh..wh..opq"), file("a/x"), file("a/.wh..wh..opq"), file("in/.wh..wh..opq")},
		"opaque root":              {file("kept"), file(".wh..wh..opq")},
		"opaque of nothing":        {file("n/.wh..wh..opq")},
		"opaque through a link":    {file("abs/.wh..wh..opq")},
		"through a file":           {file("a/1/x")},
		"directory then gone":      {dir("t"), file(".wh.t")},
		"directory then a file":    {dir("t"), file("t")},
		"directory then a link":    {dir("t"), link("t", "a")},
		"link then a directory":    {link("t", "a"), dir("t"), file("t/x")},
		"link replaced meanwhile":  {link("l", "a"), file("l/x"), link("l", "d"), file("l/y")},
		"directory made anew":      {dir("t"), file("t/x"), file(".wh.t"), file("t/y")},
		"opaque above":             {file("e/f/new"), dir("e"), dir("e/f"), file("e/.wh..wh..opq"), file("e/f/newer")},
		"twice":                    {file("t"), file("t"), dir("u"), dir("u")},
		"global header":            {{kind: tar.TypeXGlobalHeader, name: "pax_global_header"}, file("x")},
	} {
		t.Run(name, func(t *testing.T) { oracle(t, pack(t, l)) })
	}
}

// Attributes of the kind that an image's build leaves.
func TestApplyAttributes(t *testing.T) {
	needsRoot(t)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x07\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeReg, Name: "ping", Mode: 0o4755, Uid: 7, Gid: 8, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.x": "y\x00z"}},
		{Typeflag: tar.TypeDir, Name: "dir", Mode: 0o3777, Uid: 7, PAXRecords: map[string]string{"SCHILY.xattr.user.d": "", "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.system.posix_acl_default": acl}},
		{Typeflag: tar.TypeReg, Name: "dir/acl", Mode: 0o674, PAXRecords: map[string]string{"SCHILY.xattr.system.posix_acl_access": acl}},
		{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o600, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"}},
		{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "ping", Uid: 9, PAXRecords: map[string]string{"SCHILY.xattr.trusted.x": "y"}},
		{Typeflag: tar.TypeReg, Name: "old", ModTime: time.Unix(-5, 0)},
		{Typeflag: tar.TypeReg, Name: "far", ModTime: time.Unix(1<<40, 0)},
		{Typeflag: tar.TypeLink, Name: "other", Linkname: "ping", Mode: 0o2711, Uid: 3, Gid: 4},
		// The list changes the mode, and a change of owner the setuid bit: the entry's mode comes after both.
		{Typeflag: tar.TypeReg, Name: "acl", Mode: 0o600, PAXRecords: map[string]string{"SCHILY.xattr.system.posix_acl_access": acl}},
		{Typeflag: tar.TypeReg, Name: "suid", Mode: 0o4755},
		{Typeflag: tar.TypeLink, Name: "suid too", Linkname: "suid", Mode: 0o4755, Uid: 5},
		// A link's entry takes away capabilities that it does not name.
		{Typeflag: tar.TypeReg, Name: "capable", Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": capability}},
		{Typeflag: tar.TypeLink, Name: "incapable", Linkname: "capable", Mode: 0o755},
	} {
		h.Format = tar.FormatPAX
		must(t, w.WriteHeader(h))
	}
	must(t, w.Close())
	oracle(t, b.Bytes())
}

func TestApplyCut(t *testing.T) {
	needsRoot(t)
	raw := pack(t, []entry{{kind: tar.TypeReg, name: "x", data: strings.Repeat("x", 5000)}})
	for _, n := range []int{100, 1600, 3000, len(raw) - 600} {
		oracle(t, raw[:n])
	}
	bad := bytes.Clone(raw)
	bad[1030] ^= 1
	oracle(t, bad)
}

// words are dangerous together.
var words = []string{"a", "b", "1", "in", "abs", "up", "gone", "loop", "..", ".", "", ".wh.a", ".wh.in", ".wh.1", ".wh..wh..opq", ".wh..", "deep", "d", "e"}

// dangerous makes a layer of bytes.
func dangerous(take func() byte, more func() bool) []entry {
	kinds := []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeFifo, tar.TypeReg, tar.TypeDir}
	name := func() string {
		var parts []string
		for range take()%3 + 1 {
			parts = append(parts, words[int(take())%len(words)])
		}
		return strings.Join(parts, "/")
	}
	var l []entry
	for more() && len(l) < 8 {
		e := entry{kind: kinds[take()%8], name: name(), data: "x"}
		if e.kind == tar.TypeSymlink || e.kind == tar.TypeLink {
			// Of a ".." behind a link containerd makes something else than the kernel does, so it comes first.
			e.link = strings.Repeat("../", int(take()%3)) + strings.ReplaceAll(name(), "..", "b")
			if take()%3 == 0 {
				e.link = "/" + e.link
			}
		}
		if e.name != "" {
			l = append(l, e)
		}
	}
	return l
}

func TestApplyRandom(t *testing.T) {
	needsRoot(t)
	layers := uint64(200)
	if s := os.Getenv("LAYERS"); s != "" {
		var err error
		layers, err = strconv.ParseUint(s, 10, 64)
		must(t, err)
	}
	for seed := range layers {
		r := rand.New(rand.NewPCG(seed, 1))
		l := dangerous(func() byte { return byte(r.Uint32()) }, func() bool { return r.IntN(12) > 0 })
		if oracle(t, pack(t, l)); t.Failed() {
			t.Fatalf("seed %d: %q", seed, l)
		}
	}
}

func FuzzApply(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root: owners and device nodes")
	}
	f.Add([]byte{0, 1, 3, 0, 0, 3, 2, 4, 1, 0, 9, 9})
	f.Add([]byte{2, 0, 1, 2, 1, 9, 0, 1, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		take := func() byte {
			if len(in) == 0 {
				return 0
			}
			b := in[0]
			in = in[1:]
			return b
		}
		oracle(t, pack(t, dangerous(take, func() bool { return len(in) > 0 })))
	})
}
