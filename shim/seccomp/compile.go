package seccomp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/shim/reaper"
)

// program is the compiler's name, and DefaultDir the place of its results.
const (
	program    = "pvelxc-seccomp"
	DefaultDir = "/run/pvelxc/seccomp"
)

// Compiler compiles filters and remembers the results.
type Compiler struct {
	// Program is the path of pvelxc-seccomp; empty for the one beside the running
	// executable.
	Program string
	// Dir keeps results, mode 0700 and owned by root; empty for DefaultDir.
	Dir string

	mu sync.Mutex
	// recent is guarded by mu, as a ring: a pod has one or two profiles.
	recent [4]struct {
		key    string
		filter *Filter
	}
	next int
}

var shared Compiler

// Compile compiles a validated filter with the shared Compiler.
func Compile(ctx context.Context, profile *specs.LinuxSeccomp) (*Filter, error) {
	return shared.Compile(ctx, profile)
}

// Compile returns the compiled form of profile, which was validated before. A
// profile that libseccomp does not take unwraps to errdefs.ErrInvalidArgument.
func (c *Compiler) Compile(ctx context.Context, profile *specs.LinuxSeccomp) (*Filter, error) {
	path, err := c.path()
	if err != nil {
		return nil, err
	}
	// Whom to notify is not part of the program.
	bare := *profile
	bare.ListenerPath, bare.ListenerMetadata = "", ""
	canonical, err := json.Marshal(bare)
	if err != nil {
		return nil, fmt.Errorf("encode the seccomp profile: %w", err)
	}
	key, err := cacheKey(path, canonical)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, entry := range c.recent {
		if entry.filter != nil && entry.key == key {
			return entry.filter, nil
		}
	}
	store := store{dir: c.Dir}
	if store.dir == "" {
		store.dir = DefaultDir
	}
	filter := store.load(key)
	if filter == nil {
		frame, err := run(ctx, path, canonical)
		if err != nil {
			return nil, err
		}
		if filter, err = Decode(frame); err != nil {
			return nil, fmt.Errorf("read the result of %s: %w", path, err)
		}
		// A result that cannot be kept is compiled again the next time.
		_ = store.save(key, frame)
	}
	c.recent[c.next].key, c.recent[c.next].filter = key, filter
	c.next = (c.next + 1) % len(c.recent)
	return filter, nil
}

func (c *Compiler) path() (string, error) {
	path := c.Program
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find the seccomp compiler: %w", err)
		}
		path = filepath.Join(filepath.Dir(self), program)
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("find the seccomp compiler: %w (hint: %s belongs beside the shim): %w", err, program, errdefs.ErrUnavailable)
	}
	return path, nil
}

// cacheKey names the result of compiling profile: all that it depends on is in it.
// The files of the compiler and of libseccomp, which knows the system calls, stand
// for their versions.
func cacheKey(compiler string, profile []byte) (string, error) {
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		return "", os.NewSyscallError("uname", err)
	}
	hash := sha256.New()
	fmt.Fprintf(hash, "%s\n%s %s\n", magic, runtime.GOARCH, unix.ByteSliceToString(uname.Release[:]))
	libraries, _ := filepath.Glob("/usr/lib/*/libseccomp.so.2")
	for _, file := range append(libraries, compiler) {
		var st unix.Stat_t
		if err := unix.Stat(file, &st); err != nil {
			return "", &os.PathError{Op: "stat", Path: file, Err: err}
		}
		fmt.Fprintf(hash, "%s %d %d %d %d.%d\n", file, st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec)
	}
	hash.Write(profile)
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// run lets the compiler translate a profile.
func run(ctx context.Context, path string, profile []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var stdout, stderr limited
	stdout.max, stderr.max = MaxFrame, 4096
	cmd := exec.Command(path)
	cmd.Env = []string{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(profile), &stdout, &stderr
	exit, err := reaper.Run(ctx, cmd)
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", path, err)
	}
	if code := exit.Code(); code != 0 {
		return nil, fmt.Errorf("compile the seccomp profile: %s (exit status %d): %w", strings.TrimSpace(stderr.String()), code, errdefs.ErrInvalidArgument)
	}
	return stdout.Bytes(), nil
}

// limited keeps the first max bytes of what is written to it.
type limited struct {
	bytes.Buffer
	max int
}

func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), l.max-l.Len())])
	return len(p), nil
}
