package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/internal/ctrd"
	"github.com/pvelxc/pvelxc/internal/doctor"
	"github.com/pvelxc/pvelxc/internal/host"
	"github.com/pvelxc/pvelxc/internal/inventory"
	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/internal/redact"
	"github.com/pvelxc/pvelxc/internal/timeline"
	"github.com/pvelxc/pvelxc/internal/version"
)

func supportCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "support-bundle",
		Short: "Collect what a report of a problem needs, without secrets",
		Long: "support-bundle writes an archive with doctor's answers, what gc would do, the configuration, the list of containers and, of each, its LXC config, its\n" +
			"conf, its specification and its log. Environments, arguments, users' annotations, and values of keys that sound secret are left out.\n" +
			"Names, images and paths are in it: look before you publish it.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output == "" {
				output = "pvelxc-support-" + time.Now().UTC().Format("20060102-150405") + ".tar.gz"
			}
			f, err := os.OpenFile(output, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err != nil {
				return fmt.Errorf("support-bundle: %w (hint: --output FILE)", err)
			}
			b := &supportBundle{zip: gzip.NewWriter(f)}
			b.tar = tar.NewWriter(b.zip)
			b.collect(cmd.Context())
			if err := errors.Join(b.err, b.tar.Close(), b.zip.Close(), f.Close()); err != nil {
				return errors.Join(fmt.Errorf("support-bundle: %w", err), os.Remove(output))
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d files\n", output, b.files)
			return err
		},
	}
	c.Flags().StringVar(&output, "output", "", "the archive (default: pvelxc-support-TIME.tar.gz here)")
	return c
}

// supportBundle writes files; what cannot be collected is a file that says why.
type supportBundle struct {
	zip   *gzip.Writer
	tar   *tar.Writer
	files int
	err   error // of writing
}

// add takes passwords out of URLs, of which errors and warnings are full.
func (b *supportBundle) add(name string, text []byte, err error) {
	if err != nil {
		name, text = name+".error", append([]byte(err.Error()+"\n"), text...)
	}
	text = []byte(redact.URL(string(text)))
	h := &tar.Header{Name: path.Join("pvelxc-support", name), Mode: 0o600, Size: int64(len(text)), ModTime: time.Now(), Typeflag: tar.TypeReg}
	if e := b.tar.WriteHeader(h); e != nil {
		b.err = errors.Join(b.err, e)
		return
	}
	if _, e := b.tar.Write(text); e != nil {
		b.err = errors.Join(b.err, e)
	}
	b.files++
}

func (b *supportBundle) addJSON(name string, v any, err error) {
	text, e := json.MarshalIndent(v, "", "  ")
	b.add(name, text, errors.Join(err, e))
}

func (b *supportBundle) collect(ctx context.Context) {
	h := &host.Host{}
	release, revision := version.Release()
	b.add("version", fmt.Appendf(nil, "%s %s\n%s\n%s\n", release, revision, h.Word("/proc/version"), h.Word("/etc/os-release")), nil)
	conf, err := config.Load()
	if err != nil {
		b.add("config", nil, err)
		conf = config.Default()
	}
	results, err := doctor.Run(ctx, doctor.New(ctx, h, conf))
	b.addJSON("doctor.json", results, err)
	for _, file := range []string{config.Path(), doctor.SnapshotterFile} {
		if text, err := h.Read(file); err == nil {
			b.addTOML(path.Base(file), text)
		}
	}
	if l, err := ctrd.Find(ctx, h); err != nil {
		b.add("containerd.toml", nil, err)
	} else {
		tree, err := l.Dump(ctx, h, l.Live)
		text, e := toml.Marshal(redact.Tree(map[string]any(tree)))
		b.add("containerd.toml", text, errors.Join(err, e))
	}
	for _, command := range [][]string{
		{"zpool", "status"}, {"zfs", "list", "-t", "all", "-o", "name,used,refer,origin"}, {"pveversion", "-v"}, {"uname", "-a"},
		{"journalctl", "--no-pager", "--lines=2000", "--unit=pvelxc-snapshotter.service", "--unit=pvelxc-gc.service"},
	} {
		if _, err := h.Look(command[0]); err == nil {
			out, err := h.Run(ctx, command[0], command[1:]...)
			b.add(command[0]+".txt", []byte(out), err)
		}
	}
	b.addGarbage(ctx, conf)
	b.collectContainers(ctx, conf)
}

// addGarbage adds what gc would do.
func (b *supportBundle) addGarbage(ctx context.Context, conf config.Config) {
	var text bytes.Buffer
	r, err := collectGarbage(ctx, conf, false, newProgress(io.Discard, screen{quiet: true}, 1), func(error) {})
	err = errors.Join(err, r.printJSON(&text))
	b.add("gc.json", text.Bytes(), err)
}

func (b *supportBundle) addTOML(name, text string) {
	var v map[string]any
	if err := toml.Unmarshal([]byte(text), &v); err != nil {
		b.add(name, nil, err) // its text may hold anything
		return
	}
	out, err := toml.Marshal(redact.Tree(v))
	b.add(name, out, err)
}

func (b *supportBundle) collectContainers(ctx context.Context, conf config.Config) {
	list, err := node.Containers()
	if err != nil {
		b.add("containers.json", nil, err)
		return
	}
	rows, err := inventory.Rows(ctx, inventory.Options{Images: inventory.Images(inventory.Address())})
	b.addJSON("containers.json", rows, err)
	for _, c := range list {
		dir := path.Join("containers", c.Namespace, c.ID)
		i, err := inspect(ctx, conf, c.Namespace+"/"+c.ID)
		if i != nil {
			i.Spec = redact.Spec(i.Spec)
		}
		b.addJSON(path.Join(dir, "inspect.json"), i, err)
		entries, err := collect(ctx, c, nil)
		timeline.Sort(entries)
		var log bytes.Buffer
		for _, e := range entries {
			fmt.Fprintf(&log, "%s %s %s %s\n", e.Time.Format(time.RFC3339Nano), e.Source, e.Level, e.Message)
		}
		b.add(path.Join(dir, "log"), log.Bytes(), err)
	}
}
