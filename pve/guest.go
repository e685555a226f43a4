package pve

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pvelxc/pvelxc/pve/conf"
)

// Guest is what PVE is told of a container. Its strings may be anything: they
// come from images and from whoever may create pods.
type Guest struct {
	// Namespace is containerd's; ID is unique in it.
	Namespace, ID string
	// Name becomes the host name; for Kubernetes the pod's.
	Name string
	// Pod ("namespace/name"), Container and Image go into the note; empty ones do not.
	Pod, Container, Image string
	// Tags are made tags of PVE's by Tag; "k8s", "ns-default", "pod-web-0".
	Tags []string
	// Rootfs is the absolute path of the root file system, without symbolic links.
	Rootfs string
	// RootfsFallback stands in where Rootfs has characters that PVE cannot hold;
	// empty for none.
	RootfsFallback string
	// RootfsSize in bytes; 0 is unknown.
	RootfsSize int64
	// Unprivileged and IDMap must be the truth: pct push and pct mount trust them.
	Unprivileged bool
	IDMap        []IDMap
	// HaltSignal is what a graceful stop sends, such as "SIGTERM" or "15"; empty is
	// SIGTERM.
	HaltSignal string
	Limits     Limits
}

// IDMap is one line of lxc.idmap.
type IDMap struct {
	// Group tells a mapping of groups from one of users.
	Group bool
	// Container and Host are the first identifiers, Size is how many follow on.
	Container, Host, Size uint32
}

// String is the value of lxc.idmap.
func (m IDMap) String() string {
	kind := "u"
	if m.Group {
		kind = "g"
	}
	return fmt.Sprintf("%s %d %d %d", kind, m.Container, m.Host, m.Size)
}

// noteFooter tells an admin why the buttons do nothing.
const noteFooter = "Run by containerd through pvelxc. Stop, shutdown, console and enter work; its pod or nerdctl does the rest."

// Render is the conf that Reserve would write for a guest.
func (r *Registrar) Render(g Guest) (*conf.Conf, error) { return r.render(g) }

// render writes the conf of a guest that is not running, as PVE itself would.
// It fails with ErrInvalidArgument for a rootfs path that the file cannot hold.
func (r *Registrar) render(g Guest) (*conf.Conf, error) {
	path := g.Rootfs
	if err := conf.CheckRootfsPath(path); err != nil {
		if g.RootfsFallback == "" {
			return nil, err
		}
		path = g.RootfsFallback
	}
	signal := g.HaltSignal
	if signal == "" {
		signal = "SIGTERM"
	}
	var c conf.Conf
	c.SetDescription(note(g))
	for key, value := range map[string]string{
		// The UI's console is a shell: the container's own streams are containerd's, and a
		// second reader would steal from its logs.
		"cmode":        "shell",
		"hostname":     Hostname(g.Name),
		"lock":         conf.LockCreate,
		"ostype":       "unmanaged",
		"protection":   "1",
		"rootfs":       conf.Rootfs{Path: path, Size: g.RootfsSize}.String(),
		"unprivileged": boolean(g.Unprivileged),
	} {
		if err := c.Set(key, value); err != nil {
			return nil, err
		}
	}
	if tags := tagList(g.Tags, r.Tags); tags != "" {
		if err := c.Set("tags", tags); err != nil {
			return nil, err
		}
	}
	maps := make([]string, len(g.IDMap))
	for i, m := range g.IDMap {
		maps[i] = m.String()
	}
	for _, raw := range []struct {
		key    string
		values []string
	}{
		{markerKey, []string{r.owner(g.Namespace, g.ID).marker()}},
		{"lxc.signal.halt", []string{signal}},
		{"lxc.idmap", maps},
	} {
		if err := c.SetRaw(raw.key, raw.values...); err != nil {
			return nil, err
		}
	}
	if err := apply(&c, nil, g.Limits.keys(r.host)); err != nil {
		return nil, err
	}
	return &c, nil
}

func boolean(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// tagList joins the tags that are left of names, each once, in order.
func tagList(names ...[]string) string {
	var tags []string
	for _, name := range slices.Concat(names...) {
		if tag := Tag(name); tag != "" && !slices.Contains(tags, tag) {
			tags = append(tags, tag)
		}
	}
	const most = 32
	return strings.Join(tags[:min(len(tags), most)], ";")
}

// HasImage reports whether a note names an image.
func HasImage(c *conf.Conf) bool { return strings.Contains(c.Description(), "**image** `") }

// note is Markdown: PVE's UI renders it. Two spaces at the end break a line.
func note(g Guest) string {
	var b strings.Builder
	for _, row := range [][2]string{{"pod", g.Pod}, {"container", g.Container}, {"image", g.Image}, {"id", g.Namespace + "/" + g.ID}} {
		if row[1] != "" {
			fmt.Fprintf(&b, "**%s** `%s`  \n", row[0], noteValue(row[1]))
		}
	}
	return b.String() + noteFooter
}
