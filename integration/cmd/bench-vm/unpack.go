package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// image is an OCI layout, as a tar stream, with one layer.
func image(name string, layer []byte) ([]byte, error) {
	blobs := map[string][]byte{}
	add := func(kind string, data []byte) ocispec.Descriptor {
		d := digest.FromBytes(data)
		blobs["blobs/sha256/"+d.Encoded()] = data
		return ocispec.Descriptor{MediaType: kind, Digest: d, Size: int64(len(data))}
	}
	encode := func(v any) []byte {
		raw, err := json.Marshal(v)
		if err != nil {
			panic(err) // these types encode
		}
		return raw
	}
	l := add(ocispec.MediaTypeImageLayer, layer)
	config := add(ocispec.MediaTypeImageConfig, encode(ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.Digest}},
	}))
	manifest := add(ocispec.MediaTypeImageManifest, encode(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{l},
	}))
	manifest.Annotations = map[string]string{"io.containerd.image.name": name}
	blobs["index.json"] = encode(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{manifest}})
	blobs["oci-layout"] = []byte(`{"imageLayoutVersion": "1.0.0"}`)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for file, data := range blobs {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: file, Mode: 0o644, Size: int64(len(data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}

// daemon starts containerd with the subjects as its plugins, and with our differ before its own.
func (b *bench) daemon() (client *containerd.Client, stop func() error, err error) {
	dir := filepath.Join(b.g.dir, "containerd")
	socket := filepath.Join(b.g.dir, "containerd.sock")
	var text strings.Builder
	fmt.Fprintf(&text, "version = 3\nroot = %q\nstate = %q\n", dir+"/root", dir+"/state")
	text.WriteString("disabled_plugins = [\"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.grpc.v1.cri\", \"io.containerd.nri.v1.nri\"]\n")
	fmt.Fprintf(&text, "[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n", socket, socket+".ttrpc")
	for _, s := range b.g.subjects {
		address := filepath.Join(b.g.dir, s.id, "sock")
		fmt.Fprintf(&text, "[proxy_plugins.%s]\ntype = \"snapshot\"\naddress = %q\n", s.id, address)
		if s.name == ours {
			fmt.Fprintf(&text, "[proxy_plugins.differ]\ntype = \"diff\"\naddress = %q\n", address)
		}
	}
	text.WriteString("[plugins.\"io.containerd.service.v1.diff-service\"]\ndefault = [\"differ\", \"walking\"]\n")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(dir+"/config.toml", []byte(text.String()), 0o600); err != nil {
		return nil, nil, err
	}
	log, err := os.Create(dir + "/log")
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(os.Getenv("PVELXC_PEERS"), "containerd-2.4.2", "containerd"), "-c", dir+"/config.toml")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	stop = func() error { return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()) }
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		client, err = containerd.New(socket, containerd.WithTimeout(time.Second))
		if err == nil {
			if _, err = client.Version(b.ctx); err == nil {
				return client, stop, nil
			}
			client.Close()
		}
		if time.Now().After(end) {
			raw, _ := os.ReadFile(dir + "/log")
			return nil, nil, fmt.Errorf("containerd does not answer: %w\n%s%w", err, raw, stop())
		}
	}
}

// unpack is of an image with one layer of 13,000 entries, by containerd: digests verified, to the end of the commit.
func (b *bench) unpack() (err error) {
	if err := b.g.start(b, false, ours, peerZFS, overlayExt4, overlayZFS); err != nil {
		return err
	}
	client, stop, err := b.daemon()
	if err != nil {
		return err
	}
	defer func() {
		client.Close()
		err = errors.Join(err, stop(), b.g.stop())
	}()
	ctx := namespaces.WithNamespace(b.ctx, "bench")
	took := map[string][]float64{}
	entries := 13_000 / b.scale
	// A directory for each hundred.
	files := entries * 100 / 101
	for i := range min(max(b.rounds, 2), 4) {
		layer, err := tree(files, i)
		if err != nil {
			return err
		}
		raw, err := image(fmt.Sprintf("bench/%d:1", i), layer)
		if err != nil {
			return err
		}
		images, err := client.Import(ctx, bytes.NewReader(raw))
		if err != nil {
			return fmt.Errorf("import: %w", err)
		}
		for j := range b.g.subjects {
			s := b.g.subjects[(i+j)%len(b.g.subjects)]
			start := time.Now()
			if err := containerd.NewImage(client, images[0]).Unpack(ctx, s.id); err != nil {
				return fmt.Errorf("unpack on %s: %w", s.name, err)
			}
			took[s.name] = append(took[s.name], time.Since(start).Seconds()*1000)
		}
	}
	// The first round warms the caches up.
	for name := range took {
		took[name] = took[name][1:]
	}
	b.rows = append(b.rows, newRow("unpack "+thousands(entries)+" entries", "ms", medians(took)))
	return nil
}
