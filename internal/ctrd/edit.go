package ctrd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/internal/host"
)

// Want is what containerd's configuration must have.
type Want struct {
	// Socket is the snapshotter's, empty where there is none; Exports is the directory on its
	// pool that the kubelet takes the images' capacity from, empty for none.
	Socket, Exports string
	// Differ has layers unpacked and compared by the snapshotter itself, where containerd's
	// configuration leaves that to its default.
	Differ bool
	// Options go to the runtime as they are: the format of the node's own file.
	Options map[string]any
}

// Edit is a change of one file. Before is nil for a file that is not there, After for one
// that goes.
type Edit struct {
	Path          string
	Before, After []byte
}

const (
	dropIn = "/etc/containerd/conf.d/pvelxc.toml"
	begin  = "# pvelxc: begin. Written by pvelxc install; pvelxc uninstall removes it.\n"
	end    = "# pvelxc: end.\n"
)

// Plan says which files to change so that containerd has what is wanted. Tables that exist are
// never touched, and containerd itself is asked, with the new files, whether all else stays as
// it was. Nothing to change is no edit.
func (l Layout) Plan(ctx context.Context, h *host.Host, want Want) ([]Edit, error) {
	before, err := l.Dump(ctx, h, l.Live)
	if err != nil {
		return nil, err
	}
	add := want.missing(before, l.Schema)
	if len(add) == 0 {
		return nil, nil
	}
	main, err := readOrNil(h, l.Config)
	if err != nil {
		return nil, err
	}
	if l.Kind == "k3s" && !h.Exists(l.Live) {
		return nil, fmt.Errorf("k3s has not made %s yet: %w (hint: systemctl start %s)", l.Live, errdefs.ErrFailedPrecondition, l.Unit)
	}
	edits, err := l.plan(ctx, h, before, main, add)
	if err != nil && want.Differ {
		// The differ's tables may be there in another form. Without it all works, slower.
		want.Differ = false
		if add = want.missing(before, l.Schema); len(add) == 0 {
			return nil, nil
		}
		return l.plan(ctx, h, before, main, add)
	}
	return edits, err
}

func (l Layout) plan(ctx context.Context, h *host.Host, before Tree, main []byte, add tables) ([]Edit, error) {
	if l.Kind != "k3s" && main != nil && l.Schema > 2 && imports(before, h.At(dropIn)) {
		text, err := render(l.Schema, true, add)
		if err != nil {
			return nil, err
		}
		if err := l.try(ctx, h, before, l.importing(h, text)); err == nil {
			return []Edit{{Path: dropIn, After: []byte(begin + text + end)}}, nil
		}
	}
	return l.planBlock(ctx, h, before, main, add)
}

// planBlock appends to the file itself.
func (l Layout) planBlock(ctx context.Context, h *host.Host, before Tree, main []byte, add tables) ([]Edit, error) {
	for range 2 {
		text, err := render(l.Schema, main == nil && l.Kind != "k3s", add)
		if err != nil {
			return nil, err
		}
		var after, candidate string
		if l.Kind == "k3s" {
			live, err := h.Read(l.Live)
			if err != nil {
				return nil, fmt.Errorf("containerd's configuration: %w", err)
			}
			base := ""
			if main == nil {
				base = "{{ template \"base\" . }}\n\n"
			}
			after, candidate = newline(string(main))+begin+base+text+end, newline(live)+text
		} else {
			after = newline(string(main)) + begin + text + end
			candidate = after
		}
		err = l.try(ctx, h, before, func(string) (string, error) { return candidate, nil })
		if err == nil {
			return []Edit{{Path: l.Config, Before: main, After: []byte(after)}}, nil
		}
		// containerd 1.7 forgets its default runtimes when a file names another one.
		var lost *changed
		if !errors.As(err, &lost) || len(lost.runtimes) == 0 || len(add[runtimes(l.Schema)]) > 1 {
			return nil, err
		}
		maps.Copy(add[runtimes(l.Schema)], lost.runtimes)
	}
	return nil, fmt.Errorf("containerd %s: its default runtimes cannot be kept: %w", l.Version, errdefs.ErrInternal)
}

// Unplan says which files to change so that nothing of Plan's is left.
func (l Layout) Unplan(h *host.Host) ([]Edit, error) {
	var edits []Edit
	for _, file := range slices.Compact([]string{dropIn, l.Config}) {
		text, err := readOrNil(h, file)
		if err != nil {
			return nil, err
		}
		rest, ok := withoutBlock(string(text))
		if !ok {
			continue
		}
		e := Edit{Path: file, Before: text}
		if strings.TrimSpace(rest) != "" {
			e.After = []byte(rest)
		}
		edits = append(edits, e)
	}
	return edits, nil
}

// withoutBlock cuts out what Plan wrote; ok is false when there is nothing of it.
func withoutBlock(text string) (rest string, ok bool) {
	head, tail, found := strings.Cut(text, begin)
	if !found {
		return text, false
	}
	_, tail, found = strings.Cut(tail, end)
	if !found {
		return text, false
	}
	return head + tail, true
}

func readOrNil(h *host.Host, path string) ([]byte, error) {
	text, err := h.Read(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("containerd's configuration: %w", err)
	}
	return []byte(text), nil
}

// newline ends a text with one, unless it is empty.
func newline(text string) string {
	if text == "" || strings.HasSuffix(text, "\n") {
		return text
	}
	return text + "\n"
}

// Edited is when the files that Plan may have changed were changed last; the zero time when
// none of them is there.
func (l Layout) Edited(h *host.Host) (time.Time, error) {
	var last time.Time
	for _, file := range []string{dropIn, l.Config} {
		info, err := os.Stat(h.At(file))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return last, fmt.Errorf("containerd's configuration: %w", err)
		}
		if info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last, nil
}
