// Package image makes small OCI images offline, as archives that containerd imports.
package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"runtime"
	"sort"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Names of the images this package makes.
const (
	Busybox = "pvelxc.test/busybox:latest" // a small system: applets, users, /tmp
	Scratch = "pvelxc.test/scratch:latest" // nothing but /busybox: no /dev, no /proc, no /etc
	Pause   = "pvelxc.test/pause:latest"   // what holds the namespaces of a pod: one process that sleeps
)

// busyboxPath is where Debian's busybox-static has its program.
const busyboxPath = "/bin/busybox"

// file is one entry of a layer. A directory has a name that ends in a slash; a link has a target.
type file struct {
	mode   fs.FileMode
	uid    int
	target string
	data   []byte
}

// system are the files of [Busybox] that are not applets.
var system = map[string]file{
	"bin/":       {mode: 0o755},
	"dev/":       {mode: 0o755},
	"etc/":       {mode: 0o755},
	"proc/":      {mode: 0o755},
	"sys/":       {mode: 0o755},
	"root/":      {mode: 0o700},
	"tmp/":       {mode: 0o1777},
	"var/":       {mode: 0o755},
	"home/":      {mode: 0o755},
	"home/app/":  {mode: 0o755, uid: 1000},
	"etc/passwd": {mode: 0o644, data: []byte("root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\napp:x:1000:1000:app:/home/app:/bin/sh\n")},
	"etc/group":  {mode: 0o644, data: []byte("root:x:0:\ndaemon:x:1:\napp:x:1000:\nstaff:x:2000:app\naudio:x:2001:app\n")},
}

// Archive is an OCI image layout, as a tar stream, of all images.
func Archive() ([]byte, error) {
	program, err := os.ReadFile(busyboxPath)
	if err != nil {
		return nil, fmt.Errorf("read busybox: %w (hint: apt-get install busybox-static)", err)
	}
	applets, err := exec.Command(busyboxPath, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox's applets: %w", err)
	}
	files := map[string]file{"bin/busybox": {mode: 0o755, data: program}}
	for name, f := range system {
		files[name] = f
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			files["bin/"+applet] = file{mode: 0o777, target: "busybox"}
		}
	}
	var layout layout
	err = layout.add(Busybox, files, ocispec.ImageConfig{
		Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/sh"}, WorkingDir: "/",
	})
	alone := map[string]file{"busybox": {mode: 0o755, data: program}}
	if err == nil {
		err = layout.add(Scratch, alone, ocispec.ImageConfig{Entrypoint: []string{"/busybox"}})
	}
	if err == nil {
		err = layout.add(Pause, alone, ocispec.ImageConfig{Entrypoint: []string{"/busybox", "sleep", "2147483647"}})
	}
	if err != nil {
		return nil, err
	}
	return layout.archive()
}

// layout collects the blobs of an OCI image layout.
type layout struct {
	blobs     map[string][]byte // by path in the archive
	manifests []ocispec.Descriptor
}

func (l *layout) blob(mediaType string, data []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if l.blobs == nil {
		l.blobs = make(map[string][]byte)
	}
	l.blobs[path.Join("blobs", d.Digest.Algorithm().String(), d.Digest.Encoded())] = data
	return d
}

func (l *layout) add(name string, files map[string]file, config ocispec.ImageConfig) error {
	layer, err := tarball(files)
	if err != nil {
		return fmt.Errorf("make the layer of %s: %w", name, err)
	}
	platform := ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	description, err := json.Marshal(ocispec.Image{
		Platform: platform,
		Config:   config,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	if err != nil {
		return fmt.Errorf("encode the config of %s: %w", name, err)
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    l.blob(ocispec.MediaTypeImageConfig, description),
		Layers:    []ocispec.Descriptor{l.blob(ocispec.MediaTypeImageLayer, layer)},
	})
	if err != nil {
		return fmt.Errorf("encode the manifest of %s: %w", name, err)
	}
	d := l.blob(ocispec.MediaTypeImageManifest, manifest)
	d.Platform = &platform
	d.Annotations = map[string]string{"io.containerd.image.name": name}
	l.manifests = append(l.manifests, d)
	return nil
}

func (l *layout) archive() ([]byte, error) {
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: l.manifests,
	})
	if err != nil {
		return nil, fmt.Errorf("encode the image index: %w", err)
	}
	files := map[string]file{
		ocispec.ImageLayoutFile: {mode: 0o644, data: fmt.Appendf(nil, `{"imageLayoutVersion":%q}`, ocispec.ImageLayoutVersion)},
		ocispec.ImageIndexFile:  {mode: 0o644, data: index},
	}
	for name, data := range l.blobs {
		files[name] = file{mode: 0o644, data: data}
	}
	return tarball(files)
}

// tarball packs files in the order of their names, so that equal files give equal bytes.
func tarball(files map[string]file) ([]byte, error) {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range names {
		f := files[name]
		header := &tar.Header{Name: name, Mode: int64(f.mode), Uid: f.uid, Gid: f.uid, Size: int64(len(f.data)), Typeflag: tar.TypeReg}
		switch {
		case strings.HasSuffix(name, "/"):
			header.Typeflag = tar.TypeDir
		case f.target != "":
			header.Typeflag, header.Linkname = tar.TypeSymlink, f.target
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("pack %s: %w", name, err)
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, fmt.Errorf("pack %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("finish the archive: %w", err)
	}
	return out.Bytes(), nil
}
