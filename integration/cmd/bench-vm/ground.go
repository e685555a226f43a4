package main

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	pool = "bench"
	ours = "pvelxc"
	// cold is ours without spare clones.
	cold        = "pvelxc without spares"
	peerZFS     = "containerd/zfs"
	overlayExt4 = "overlayfs on ext4"
	overlayZFS  = "overlayfs on ZFS"
)

func mapKeys[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }

// subject is one snapshotter in its process.
type subject struct {
	snapshots.Snapshotter
	name  string
	id    string // its dataset and directory, and its name in containerd
	cmd   *exec.Cmd
	conn  *grpc.ClientConn
	execs string // where the wrappers of zfs and zpool count
}

func (s *subject) cleanup(b *bench) error {
	c, ok := s.Snapshotter.(snapshots.Cleaner)
	if !ok {
		return errors.New("the client cannot clean up")
	}
	if err := c.Cleanup(b.ctx); err != nil && strings.HasPrefix(s.name, ours) {
		return err
	}
	return nil
}

// started is how many programs of ZFS's the subject has started.
func (s *subject) started() int {
	raw, _ := os.ReadFile(s.execs)
	return strings.Count(string(raw), "\n")
}

// ground is the pool and the directories.
type ground struct {
	dir      string
	bin      string
	subjects []*subject
	mounts   []string
	n        int
	timeout  []byte
	// verbose has ours log all it does, which is shown when it ends.
	verbose bool
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

const txgTimeout = "/sys/module/zfs/parameters/zfs_txg_timeout"

func newGround() (*ground, error) {
	device := os.Getenv("VM_POOL_DEVICE")
	if device == "" {
		return nil, errors.New("VM_POOL_DEVICE is not set (hint: make bench-vm)")
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	g := &ground{dir: dir, bin: filepath.Join(dir, "bin")}
	if err := os.Mkdir(g.bin, 0o755); err != nil {
		return nil, err
	}
	for _, name := range []string{"zfs", "zpool"} {
		program, err := exec.LookPath(name)
		if err != nil {
			return nil, err
		}
		script := fmt.Sprintf("#!/bin/sh\necho \"$0 $*\" >>\"$EXECS\"\nexec %s \"$@\"\n", program)
		if err := os.WriteFile(filepath.Join(g.bin, name), []byte(script), 0o755); err != nil {
			return nil, err
		}
	}
	if g.timeout, err = os.ReadFile(txgTimeout); err != nil {
		return nil, err
	}
	return g, command("zpool", "create", "-f", "-O", "mountpoint=none", "-O", "atime=off", "-O", "compression=lz4", "-O", "xattr=sa",
		"-O", "acltype=posixacl", pool, device)
}

func (g *ground) close() error {
	err := g.stop()
	return errors.Join(err, os.WriteFile(txgTimeout, g.timeout, 0o600), command("zpool", "destroy", "-f", pool), os.RemoveAll(g.dir))
}

// stop ends the subjects, so that none costs the others anything.
func (g *ground) stop() error {
	var err error
	for _, s := range g.subjects {
		s.conn.Close()
		if e := s.cmd.Process.Signal(syscall.SIGTERM); e == nil {
			_ = s.cmd.Wait() // how it ends is not what is measured
		}
		if raw, e := os.ReadFile(filepath.Join(g.dir, s.id, "log")); e == nil && g.verbose {
			fmt.Fprintf(os.Stderr, "%s:\n%s", s.name, raw)
		}
		// What ours leaves mounted for the kubelet.
		if exports := filepath.Join(g.dir, s.id, "state", "exports"); s.name == ours || s.name == cold {
			err = errors.Join(err, command("umount", exports))
		}
	}
	g.subjects = nil
	for _, m := range g.mounts {
		err = errors.Join(err, command("umount", m))
	}
	g.mounts = nil
	return err
}

// dataset makes one, mounted at a directory of its own.
func (g *ground) dataset(name, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := command("zfs", "create", "-o", "mountpoint=legacy", pool+"/"+name); err != nil {
		return err
	}
	if err := command("mount", "-t", "zfs", pool+"/"+name, dir); err != nil {
		return err
	}
	g.mounts = append(g.mounts, dir)
	return nil
}

// start starts snapshotters, each with storage that is new.
func (g *ground) start(b *bench, counting bool, names ...string) error {
	for _, name := range names {
		g.n++
		id := "n" + strconv.Itoa(g.n)
		dir := filepath.Join(g.dir, id)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		socket := dir + "/sock"
		peer := filepath.Join(os.Getenv("PVELXC_PEERS"), "snapshotters-2.0.0", "snapshotter")
		var cmd *exec.Cmd
		switch name {
		case ours, cold:
			warm := 1
			if name == cold {
				warm = 0
			}
			level := "info"
			if g.verbose {
				level = "debug"
			}
			config := fmt.Sprintf("version = 1\nroot = %q\nstate = %q\naddress = %q\nwarm_clones = %d\ncontainerd = %q\nlog_level = %q\n",
				pool+"/"+id, dir+"/state", socket, warm, filepath.Join(g.dir, "containerd.sock"), level)
			if err := os.WriteFile(dir+"/config.toml", []byte(config), 0o600); err != nil {
				return err
			}
			cmd = exec.Command(filepath.Join(os.Getenv("PVELXC_BIN"), "pvelxc-snapshotter"), "-config", dir+"/config.toml")
		case peerZFS:
			if err := g.dataset(id, dir+"/root"); err != nil {
				return err
			}
			cmd = exec.Command(peer, "zfs", dir+"/root", socket)
		case overlayExt4:
			cmd = exec.Command(peer, "overlayfs", dir+"/root", socket)
		case overlayZFS:
			if err := g.dataset(id, dir+"/data"); err != nil {
				return err
			}
			cmd = exec.Command(peer, "overlayfs", dir+"/data/root", socket)
		}
		log, err := os.Create(dir + "/log")
		if err != nil {
			return err
		}
		s := &subject{name: name, id: id, cmd: cmd, execs: dir + "/execs"}
		cmd.Stdout, cmd.Stderr = log, log
		cmd.Env = os.Environ()
		if counting {
			cmd.Env = append(cmd.Env, "PATH="+g.bin+":"+os.Getenv("PATH"), "EXECS="+s.execs)
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		log.Close()
		if s.conn, err = grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
			return err
		}
		s.Snapshotter = proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(s.conn), name)
		g.subjects = append(g.subjects, s)
		for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
			err := s.Walk(b.ctx, func(_ ctx, _ snapshots.Info) error { return nil })
			// On an empty database containerd/zfs fails, and that is an answer.
			if err == nil || !errdefs.IsUnavailable(err) {
				break
			}
			if time.Now().After(end) {
				raw, _ := os.ReadFile(dir + "/log")
				return fmt.Errorf("%s does not answer: %w\n%s", name, err, raw)
			}
		}
	}
	return nil
}

// txg is the last transaction group that was synced.
func txg() int {
	raw, _ := os.ReadFile("/proc/spl/kstat/zfs/" + pool + "/txgs")
	n := 0
	for line := range strings.SplitSeq(string(raw), "\n") {
		var id, birth int
		var state string
		if _, err := fmt.Sscan(line, &id, &birth, &state); err == nil && state == "C" {
			n = id
		}
	}
	return n
}

// quiet has only what is waited for make transaction groups, or puts ZFS's own timer back.
func (g *ground) quiet(on bool) error {
	value := g.timeout
	if on {
		value = []byte("3600")
	}
	return os.WriteFile(txgTimeout, value, 0o600)
}
