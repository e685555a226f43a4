package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// writeFile writes a file of a cgroup. It never creates one: a missing file means
// a missing controller. The error names the file and the value.
func writeFile(dir, name, value string) error {
	path := filepath.Join(dir, name)
	file, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("write %q to a cgroup: %w", value, err)
	}
	defer file.Close()
	if _, err := file.WriteString(value); err != nil {
		return fmt.Errorf("write %q to a cgroup: %w", value, err)
	}
	return nil
}

// readFile reads a file of a cgroup, without surrounding blanks.
func readFile(dir, name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return "", fmt.Errorf("read a cgroup: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// readKey reads one value of a flat keyed file such as memory.events; 0 when the
// key is absent.
func readKey(dir, name, key string) (uint64, error) {
	data, err := readFile(dir, name)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(data) {
		if rest, ok := strings.CutPrefix(line, key+" "); ok {
			value, err := strconv.ParseUint(strings.TrimSpace(rest), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read %s of %s/%s: %w", key, dir, name, err)
			}
			return value, nil
		}
	}
	return 0, nil
}
