package api

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

// tokenPattern is user@realm!name=secret (pve-access-control).
var tokenPattern = regexp.MustCompile(`^[^\s:/@!=]+@[A-Za-z][A-Za-z0-9.\-_]+![A-Za-z][A-Za-z0-9.\-_]+=[0-9A-Fa-f-]{36}$`)

// readToken reads a secret that only this process's user may read. No error shows
// any of it.
func readToken(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("read the API token: %w", err)
	}
	defer f.Close()
	// The open file is asked, not the name: the name could be another's by now.
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("read the API token: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || int(stat.Uid) != os.Geteuid() {
		return "", fmt.Errorf("%s is not a file that root alone may read: %w (hint: chown root %[1]s; chmod 600 %[1]s)", path, errdefs.ErrPermissionDenied)
	}
	data, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return "", fmt.Errorf("read the API token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if !tokenPattern.MatchString(token) {
		return "", fmt.Errorf("%s does not hold user@realm!name=secret: %w", path, errdefs.ErrInvalidArgument)
	}
	return token, nil
}
