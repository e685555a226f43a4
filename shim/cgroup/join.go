package cgroup

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Join moves a process of the host's, with all its threads, into the existing group
// at path, in each hierarchy that has one. A path that none has unwraps to
// errdefs.ErrNotFound.
func Join(path string, pid int) error {
	path = strings.TrimPrefix(path, "/")
	if !filepath.IsLocal(path) {
		return fmt.Errorf("cgroup path %q must be below the cgroup root: %w", path, errdefs.ErrInvalidArgument)
	}
	all, err := hierarchies(Mode())
	if err != nil {
		return err
	}
	found := false
	for _, h := range all {
		dir := h.dir(path)
		if !isDir(dir) {
			continue
		}
		found = true
		if err := writeFile(dir, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("join cgroup %s: %w", path, err)
		}
	}
	if !found {
		return fmt.Errorf("join cgroup %s: there is none of that name: %w (hint: make it before, for example with a systemd slice)", path, errdefs.ErrNotFound)
	}
	return nil
}
