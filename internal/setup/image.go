package setup

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// HelloImage is the name of the image that the last step runs.
const HelloImage = "pvelxc.local/hello:latest"

// Image makes an OCI image, as the archive that containerd imports, with one static program in
// it: no registry is needed to see a container run.
func Image(program string, args ...string) ([]byte, error) {
	binary, err := os.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("make an image: %w", err)
	}
	layer, err := archive(map[string][]byte{"hello": binary}, 0o755)
	if err != nil {
		return nil, fmt.Errorf("make an image: %w", err)
	}
	blobs := map[string][]byte{}
	add := func(mediaType string, data []byte) v1.Descriptor {
		d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		blobs[path.Join("blobs", d.Digest.Algorithm().String(), d.Digest.Encoded())] = data
		return d
	}
	platform := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	config, err := json.Marshal(v1.Image{
		Platform: platform,
		Config:   v1.ImageConfig{Entrypoint: append([]string{"/hello"}, args...), WorkingDir: "/"},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	if err != nil {
		return nil, fmt.Errorf("make an image: %w", err)
	}
	manifest, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: add(v1.MediaTypeImageConfig, config), Layers: []v1.Descriptor{add(v1.MediaTypeImageLayer, layer)},
	})
	if err != nil {
		return nil, fmt.Errorf("make an image: %w", err)
	}
	top := add(v1.MediaTypeImageManifest, manifest)
	top.Platform = &platform
	top.Annotations = map[string]string{"io.containerd.image.name": HelloImage}
	index, err := json.Marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{top},
	})
	if err != nil {
		return nil, fmt.Errorf("make an image: %w", err)
	}
	blobs[v1.ImageLayoutFile] = fmt.Appendf(nil, `{"imageLayoutVersion":%q}`, v1.ImageLayoutVersion)
	blobs[v1.ImageIndexFile] = index
	return archive(blobs, 0o644)
}

func archive(files map[string][]byte, mode int64) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Name: name, Mode: mode, Size: int64(len(files[name])), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
