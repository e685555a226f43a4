// Command demo shows the main job on this machine: it starts a private containerd with the pvelxc
// shim, runs an OCI image as an LXC container, looks at it from both sides, and leaves nothing
// behind, also when it is interrupted or fails.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/distribution/reference"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/image"
)

func main() {
	ref := flag.String("image", "", "pull and run this image, with its own command, instead of the built-in one")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	out := newTerminal(os.Stdout)
	if err := run(ctx, out, *ref); err != nil {
		out.fail(err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out *terminal, ref string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("containers need root (hint: sudo make demo)")
	}
	s, err := newStage(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.strike()) }()
	for _, part := range []func(context.Context) error{
		s.startContainerd,
		func(ctx context.Context) error { return s.getImage(ctx, ref) },
		s.runContainer,
		s.lookFromContainerd,
		s.lookFromLXC,
		s.exec,
		s.stop,
	} {
		if err := part(ctx); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			return err
		}
	}
	return nil
}

// container is the demo's container: containerd's id, and the LXC name.
const container = "demo"

// stage is where the demo happens.
type stage struct {
	out       *terminal
	dir       string // everything containerd writes
	namespace string // containerd's
	daemon    *daemon.Daemon
	before    surroundings
	cluster   string // where containers are registered, in the place of a cluster's filesystem

	image   string
	command []string // empty: the image's own
	ended   bool     // the container's command was short and is over
}

func newStage(out *terminal) (*stage, error) {
	dir, err := os.MkdirTemp("", "pvelxc-demo-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the demo: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, fmt.Errorf("open the demo's directory to containers: %w", err)
	}
	return &stage{out: out, dir: dir, namespace: filepath.Base(dir), before: look(), cluster: filepath.Join(dir, "pve")}, nil
}

func (s *stage) startContainerd(ctx context.Context) error {
	s.out.title("A private containerd, with its own root, state and socket")
	d, err := daemon.New(s.dir, daemon.Containerd2, nil)
	if err != nil {
		return err
	}
	s.daemon = d
	// The demo's container is no guest of a cluster that this machine may belong to.
	if err := os.Mkdir(s.cluster, 0o755); err != nil {
		return fmt.Errorf("make a place for registrations: %w", err)
	}
	config := filepath.Join(s.dir, "pvelxc.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "version = 1\n[pve]\nroot = %q\n", s.cluster), 0o600); err != nil {
		return fmt.Errorf("write the shim's configuration: %w", err)
	}
	d.Env = append(d.Env, "PVELXC_CONFIG="+config)
	s.out.note("containerd %s in %s, with %s first on its PATH", daemon.Containerd2, s.dir, daemon.Bin())
	return d.Start(ctx)
}

func (s *stage) getImage(ctx context.Context, ref string) error {
	if ref != "" {
		s.out.title("Pull an image")
		named, err := reference.ParseDockerRef(ref)
		if err != nil {
			return fmt.Errorf("image %q: %w", ref, err)
		}
		s.image = named.String()
		return s.quietly(ctx, "ctr", "image", "pull", s.image)
	}
	s.out.title("A small OCI image, made offline from busybox")
	archive, err := image.Archive()
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, "busybox.tar")
	if err := os.WriteFile(path, archive, 0o600); err != nil {
		return fmt.Errorf("write the image: %w", err)
	}
	s.image = image.Busybox
	s.command = []string{"sh", "-c", `trap "echo bye; exit 0" TERM; echo hello, I am pid $$; while :; do sleep 1 & wait $!; done`}
	return s.quietly(ctx, "ctr", "image", "import", path)
}

func (s *stage) runContainer(ctx context.Context) error {
	s.out.title("Run it as an LXC container")
	args := append([]string{
		"run", "--detach", "--runtime", "io.containerd.pvelxc.v2", "--memory-limit", "67108864", "--log-uri", "file://" + s.log(), s.image, container,
	}, s.command...)
	return s.ctr(ctx, args...)
}

func (s *stage) log() string { return filepath.Join(s.dir, "container.log") }

func (s *stage) lookFromContainerd(ctx context.Context) error {
	s.out.title("What containerd sees")
	if err := s.ctr(ctx, "task", "list"); err != nil {
		return err
	}
	running, err := s.running(ctx)
	if err != nil {
		return err
	}
	if !running {
		s.ended = true
		s.out.note("the image's command is over already")
		return s.showLog()
	}
	if err := s.ctr(ctx, "task", "ps", container); err != nil {
		return err
	}
	return s.ctr(ctx, "task", "metrics", container)
}

func (s *stage) lookFromLXC(ctx context.Context) error {
	if s.ended {
		return nil
	}
	s.out.title("What LXC sees")
	c, err := s.find()
	if err != nil {
		return err
	}
	if err := s.host(ctx, "lxc-ls", "-P", c.Path, "--fancy", "-F", "NAME,STATE,PID,UNPRIVILEGED"); err != nil {
		return err
	}
	if err := s.host(ctx, "lxc-info", "-P", c.Path, "-n", c.Name); err != nil {
		return err
	}
	confs, _ := filepath.Glob(filepath.Join(s.cluster, "nodes", "*", "lxc", c.Name+".conf"))
	if len(confs) == 0 {
		return nil
	}
	s.out.title("What Proxmox VE would see")
	return s.host(ctx, "cat", confs[0])
}

// guest is where LXC has a container: its lxcpath, and its name there.
type guest struct {
	Path string `json:"lxcpath"`
	Name string `json:"name"`
}

// find reads from the shim's state which LXC container is ours: registered ones are named by VMID.
func (s *stage) find() (guest, error) {
	var g guest
	data, err := os.ReadFile(filepath.Join(s.lxcPath(), container, "state.json"))
	if err != nil {
		return g, fmt.Errorf("find the LXC container: %w", err)
	}
	if err := json.Unmarshal(data, &g); err != nil {
		return g, fmt.Errorf("find the LXC container: %w", err)
	}
	return g, nil
}

// lxcPath is where the shim keeps its state of the containers of a containerd namespace.
func (s *stage) lxcPath() string { return filepath.Join("/run/pvelxc/lxc", s.namespace) }

func (s *stage) exec(ctx context.Context) error {
	if s.ended {
		return nil
	}
	s.out.title("Run a second process in it")
	err := s.ctr(ctx, "task", "exec", "--exec-id", "second", container, "sh", "-c", "id; ps")
	if err != nil && len(s.command) == 0 && ctx.Err() == nil {
		s.out.note("this image has no shell: %v", err)
		return nil
	}
	return err
}

func (s *stage) stop(ctx context.Context) error {
	if !s.ended {
		s.out.title("Stop it")
		if err := s.ctr(ctx, "task", "kill", "--signal", "SIGTERM", container); err != nil {
			return err
		}
		if err := s.awaitEnd(ctx); err != nil {
			return err
		}
		if err := s.showLog(); err != nil {
			return err
		}
	}
	s.out.title("Remove it")
	if err := s.ctr(ctx, "task", "delete", container); err != nil && !strings.Contains(err.Error(), "exit status") {
		return err
	}
	return s.ctr(ctx, "container", "delete", container)
}

// awaitEnd waits for the container to obey the signal, and kills it when it does not.
func (s *stage) awaitEnd(ctx context.Context) error {
	patience, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	over := func() error {
		running, err := s.running(ctx)
		if err == nil && running {
			err = errors.New("the container is still running")
		}
		return err
	}
	if daemon.Poll(patience, over) == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	s.out.note("it does not listen to SIGTERM")
	if err := s.ctr(ctx, "task", "kill", "--signal", "SIGKILL", container); err != nil {
		return err
	}
	again, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return daemon.Poll(again, over)
}

func (s *stage) showLog() error {
	data, err := os.ReadFile(s.log())
	if err != nil {
		return fmt.Errorf("read what the container wrote: %w", err)
	}
	s.out.note("the container wrote:")
	s.out.output(data)
	return nil
}
