package conf

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Rootfs is the value of the key rootfs as a bind mount: PVE shows it, and
// refuses to snapshot, clone, resize or migrate it.
type Rootfs struct {
	// Path is absolute, clean, and outside /dev, which PVE takes for a device.
	Path string
	// Size in bytes is what PVE shows for a stopped container; 0 is unknown,
	// which PVE shows as 4 GiB.
	Size int64
}

// rootfsPath has no comma, equals sign or quote, which PVE's property strings give a
// meaning, and no space.
var rootfsPath = lazy(`^(?:/[A-Za-z0-9_.+@~-]+)+$`)

var sizePattern = lazy(`^([1-9][0-9]{0,17})([KMGT]?)$`)

// CheckRootfsPath fails with ErrInvalidArgument unless path can stand in the key
// rootfs.
func CheckRootfsPath(path string) error {
	if !rootfsPath().MatchString(path) || len(path) >= 4096 {
		return fmt.Errorf("rootfs path %q is not absolute, or has other characters than letters, digits and _.+@~-: %w", path, errdefs.ErrInvalidArgument)
	}
	for part := range strings.SplitSeq(path[1:], "/") {
		if part == "." || part == ".." {
			return fmt.Errorf("rootfs path %q is not clean: %w", path, errdefs.ErrInvalidArgument)
		}
	}
	if strings.HasPrefix(path, "/dev/") {
		return fmt.Errorf("rootfs path %q is a device in PVE's eyes: %w", path, errdefs.ErrInvalidArgument)
	}
	return nil
}

// String returns the value of the key rootfs.
func (r Rootfs) String() string {
	if r.Size <= 0 {
		return r.Path
	}
	return r.Path + ",size=" + formatSize(r.Size)
}

// ParseRootfs reads the value of the key rootfs. It fails with ErrInvalidArgument
// for all that String does not write.
func ParseRootfs(value string) (Rootfs, error) {
	path, rest, sized := strings.Cut(value, ",")
	r := Rootfs{Path: path}
	if err := CheckRootfsPath(path); err != nil {
		return Rootfs{}, err
	}
	if !sized {
		return r, nil
	}
	text, ok := strings.CutPrefix(rest, "size=")
	if ok {
		r.Size, ok = parseSize(text)
	}
	if !ok {
		return Rootfs{}, fmt.Errorf("rootfs option %q is not a size: %w", rest, errdefs.ErrInvalidArgument)
	}
	return r, nil
}

// formatSize writes bytes in the largest of PVE's units that leaves a whole number.
func formatSize(bytes int64) string {
	unit := ""
	for _, next := range []string{"K", "M", "G", "T"} {
		if bytes%1024 != 0 {
			break
		}
		bytes, unit = bytes/1024, next
	}
	return strconv.FormatInt(bytes, 10) + unit
}

func parseSize(text string) (int64, bool) {
	m := sizePattern().FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	shift := 0
	if m[2] != "" {
		shift = 10 * (1 + strings.Index("KMGT", m[2]))
	}
	if err != nil || n > (1<<63-1)>>shift {
		return 0, false
	}
	return n << shift, true
}
