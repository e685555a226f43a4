// Package daemon runs a private containerd from out/peers: its own root, state and socket, and a PATH
// on which the project's binaries come first.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/defaults"
)

// Version names a built containerd under out/peers.
type Version string

// The containerd lines the shim is tested with.
const (
	Containerd2  Version = "2.4.2"
	Containerd17 Version = "1.7.35"
)

// config serves every containerd line: newer ones migrate version 2. CRI and all that belongs to it
// is off unless asked for, as is everything that writes outside root and state.
const config = `version = 2
root = %q
state = %q
disabled_plugins = [%s]
[grpc]
  address = %q
[ttrpc]
  address = %q
[debug]
  level = "info"
[plugins."io.containerd.gc.v1.scheduler"]
  startup_delay = "1h"
`

var disabledPlugins = []string{
	"io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing",
	"io.containerd.tracing.processor.v1.otlp", "io.containerd.image-verifier.v1.bindir",
	"io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.blockfile",
}

// Daemon is a containerd with its own root, state and socket.
type Daemon struct {
	Dir     string // holds root, state, socket, configuration and log
	Address string // the gRPC socket
	Version Version
	Client  *containerd.Client
	Env     []string // added to the daemon's and so to every shim's environment
	Prefix  []string // a command that runs the daemon, such as unshare; empty for none

	cmd    *exec.Cmd
	exited chan struct{}
}

// New prepares a containerd below dir, with CRI unless cri is nil; Start runs it.
func New(dir string, version Version, cri *CRI) (*Daemon, error) {
	d := &Daemon{Dir: dir, Address: filepath.Join(dir, "containerd.sock"), Version: version}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make the directory of containerd: %w", err)
	}
	disabled := disabledPlugins
	if cri == nil {
		disabled = append(slices.Clone(disabled), criPlugins...)
	}
	quoted := make([]string, len(disabled))
	for i, p := range disabled {
		quoted[i] = fmt.Sprintf("%q", p)
	}
	text := fmt.Sprintf(config, filepath.Join(dir, "root"), d.State(), strings.Join(quoted, ", "), d.Address, d.Address+".ttrpc")
	if cri != nil {
		text += cri.config(d)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write containerd's configuration: %w", err)
	}
	return d, nil
}

// State is containerd's state directory; bundles are below it.
func (d *Daemon) State() string { return filepath.Join(d.Dir, "state") }

// Bundle is the bundle directory of a task.
func (d *Daemon) Bundle(namespace, id string) string {
	return filepath.Join(d.State(), "io.containerd.runtime.v2.task", namespace, id)
}

// Binary is the path of one of the daemon's programs, such as ctr.
func (d *Daemon) Binary(name string) string {
	return filepath.Join(Peers(), "containerd-"+string(d.Version), name)
}

// Start runs the daemon and connects the client. It returns when the daemon answers.
func (d *Daemon) Start(ctx context.Context) error {
	logfile, err := os.OpenFile(filepath.Join(d.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open containerd's log: %w", err)
	}
	defer logfile.Close()
	binary := d.Binary("containerd")
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("find containerd %s: %w (hint: integration/peers/build.sh)", d.Version, err)
	}
	command := append(slices.Clone(d.Prefix), binary, "--config", filepath.Join(d.Dir, "config.toml"))
	d.cmd = exec.Command(command[0], command[1:]...)
	d.cmd.Stdout, d.cmd.Stderr = logfile, logfile
	d.cmd.Env = append(append(os.Environ(), "PATH="+d.path()), d.Env...)
	// A Ctrl-C is for the program that runs the daemon, which then stops it in order.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	d.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait()
		close(exited)
	}(d.cmd, d.exited)
	if err := d.connect(ctx); err != nil {
		return errors.Join(err, d.Stop(), fmt.Errorf("containerd's log ends with:\n%s", d.LogTail(20)))
	}
	return nil
}

// path finds our binaries first, then this containerd's shim, then the newest runc and CRIU.
func (d *Daemon) path() string {
	dirs := []string{Bin()}
	for _, peer := range []string{"containerd-" + string(d.Version), "runc-1.5.1", "criu-4.1.1"} {
		dirs = append(dirs, filepath.Join(Peers(), peer))
	}
	return strings.Join(append(dirs, os.Getenv("PATH")), ":")
}

func (d *Daemon) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if d.Client == nil {
		client, err := containerd.New(d.Address, containerd.WithTimeout(time.Minute))
		if err != nil {
			return fmt.Errorf("connect to containerd: %w", err)
		}
		d.Client = client
	}
	return Poll(ctx, func() error {
		select {
		case <-d.exited:
			return Permanent(errors.New("containerd exited"))
		default:
		}
		if ok, err := d.Client.IsServing(ctx); err != nil || !ok {
			_ = d.Client.Reconnect()
			return fmt.Errorf("containerd does not serve: %w", err)
		}
		return nil
	})
}

// Pid is the daemon's process.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// Kill ends the daemon with SIGKILL, as a crash does. Shims live on.
func (d *Daemon) Kill() { d.signal(syscall.SIGKILL) }

// Stop ends the daemon with SIGTERM, and with SIGKILL when that takes too long.
func (d *Daemon) Stop() error {
	if d.cmd == nil {
		return nil
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.exited:
	case <-time.After(30 * time.Second):
		d.Kill()
		return errors.New("containerd ignored SIGTERM")
	}
	return nil
}

func (d *Daemon) signal(s syscall.Signal) {
	_ = d.cmd.Process.Signal(s)
	<-d.exited
}

// LogTail is the end of containerd's log, which holds the shims' log too.
func (d *Daemon) LogTail(lines int) string {
	data, err := os.ReadFile(filepath.Join(d.Dir, "log"))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// ShimSocketDir is where containerd's shims of every runtime have their sockets, whatever the
// daemon's own directories are.
const ShimSocketDir = defaults.DefaultStateDir + "/s"
