package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/internal/ctrd"
	"github.com/pvelxc/pvelxc/internal/node"
)

// What the last step runs, in a namespace of its own.
const (
	helloNamespace = "pvelxc-install"
	helloID        = "hello"
)

func (s *Setup) planHello(context.Context) (string, error) { return "run a container\n", nil }

// hello imports an image, runs it, and looks at the container that LXC made of it.
func (s *Setup) hello(ctx context.Context) error {
	archive, err := s.Hello()
	if err != nil {
		return err
	}
	file, err := os.CreateTemp("", "pvelxc-hello-*.tar")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_, err = file.Write(archive)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	_ = s.removeHello(ctx) // of a run that was killed
	if _, err := s.ctr(ctx, "--namespace", helloNamespace, "images", "import", "--no-unpack", file.Name()); err != nil {
		return err
	}
	args := []string{"--namespace", helloNamespace, "run", "--detach", "--null-io", "--runtime", ctrd.Runtime}
	if s.Dataset != "" {
		args = append(args, "--snapshotter", ctrd.Handler)
	}
	if _, err := s.ctr(ctx, append(args, HelloImage, helloID)...); err != nil {
		return fmt.Errorf("%w (hint: journalctl -u %s)", err, s.layout.Unit)
	}
	c, err := s.helloContainer()
	if err != nil {
		return err
	}
	s.vmid = c.VMID
	return s.removeHello(ctx)
}

func (s *Setup) helloContainer() (node.Container, error) {
	list, err := s.Containers()
	if err != nil {
		return node.Container{}, err
	}
	for _, c := range list {
		if c.Namespace != helloNamespace || c.ID != helloID {
			continue
		}
		if !c.Alive {
			return c, fmt.Errorf("the container has ended at once: %w (hint: pvelxc logs %s/%s)", errdefs.ErrInternal, helloNamespace, helloID)
		}
		if c.Unregistered != "" {
			return c, fmt.Errorf("the container is not registered: %s: %w", c.Unregistered, errdefs.ErrUnavailable)
		}
		return c, nil
	}
	return node.Container{}, fmt.Errorf("the container was not made by pvelxc: %w", errdefs.ErrInternal)
}

// helloSaid tells of the container that ran.
func (s *Setup) helloSaid(context.Context) (string, error) {
	if s.vmid == 0 {
		return "a container ran as an LXC container, unregistered as configured", nil
	}
	return "a container ran as LXC container " + s.vmid.String(), nil
}

// removeHello is idempotent: what is not there is not removed.
func (s *Setup) removeHello(ctx context.Context) error {
	var last error
	for _, args := range [][]string{
		{"tasks", "delete", "--force", helloID}, {"containers", "delete", helloID}, {"images", "delete", "--sync", HelloImage},
	} {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		_, last = s.ctr(ctx, append([]string{"--namespace", helloNamespace}, args...)...)
		cancel()
	}
	// Its content is collected in the background, so the namespace may stay, empty.
	_, _ = s.ctr(ctx, "namespaces", "remove", helloNamespace)
	return last
}
