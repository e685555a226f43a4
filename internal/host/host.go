// Package host is the machine as the administrator's command sees it: files below a root,
// and commands on a PATH. Both can be others in tests; what runs is the same.
package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Host is a machine. The zero value is this one.
type Host struct {
	// Root is put before every path; empty for none.
	Root string
	// Path is where commands are looked for; empty for $PATH and the places of a
	// Debian root's, which a systemd unit or sudo may lack.
	Path string
	// Timeout bounds a command; 0 is 10 seconds.
	Timeout time.Duration
}

const defaultTimeout = 10 * time.Second

// At is a path on the machine.
func (h *Host) At(path string) string { return filepath.Join("/", h.Root, path) }

// Read reads a file.
func (h *Host) Read(path string) (string, error) {
	data, err := os.ReadFile(h.At(path))
	return string(data), err
}

// Word is the first line of a file without blanks around it; empty when it cannot be read.
func (h *Host) Word(path string) string {
	text, err := h.Read(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(line)
}

// Exists says whether something is at path.
func (h *Host) Exists(path string) bool {
	_, err := os.Lstat(h.At(path))
	return err == nil
}

// Glob lists what matches a pattern, as paths on the machine.
func (h *Host) Glob(pattern string) []string {
	found, err := filepath.Glob(h.At(pattern))
	if err != nil {
		return nil
	}
	for i, path := range found {
		found[i] = "/" + strings.TrimPrefix(strings.TrimPrefix(path, h.At("/")), "/")
	}
	return found
}

// Write makes or replaces a file: a reader sees the old one or the new one. The directory
// is made where it is missing.
func (h *Host) Write(path string, data []byte, mode fs.FileMode) (err error) {
	to := h.At(path)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(to), ".pvelxc-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), to)
}

// Look finds a command; its error is errdefs.ErrNotFound.
func (h *Host) Look(name string) (string, error) {
	if filepath.IsAbs(name) {
		if path := h.At(name); executable(path) {
			return path, nil
		}
		return "", fmt.Errorf("command %s: %w", name, errdefs.ErrNotFound)
	}
	path := h.Path
	if path == "" {
		path = os.Getenv("PATH") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	for _, dir := range filepath.SplitList(path) {
		if found := filepath.Join(dir, name); filepath.IsAbs(dir) && executable(found) {
			return found, nil
		}
	}
	return "", fmt.Errorf("command %s: %w", name, errdefs.ErrNotFound)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// Run runs a command to its end and returns what it printed. The error has the last line of
// its standard error; a command that is not there is errdefs.ErrNotFound.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	path, err := h.Look(name)
	if err != nil {
		return "", err
	}
	timeout := h.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if h.Path != "" {
		cmd.Env = append(cmd.Env, "PATH="+h.Path)
	}
	// A child that keeps the pipes open must not hold up who asked.
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(stderr.String())
		if i := strings.LastIndexByte(text, '\n'); i >= 0 {
			text = text[i+1:]
		}
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer in %s: %w", timeout, ctx.Err())
		}
		if text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
		return stdout.String(), fmt.Errorf("%s: %w", strings.Join(append([]string{filepath.Base(name)}, args...), " "), err)
	}
	return stdout.String(), nil
}
