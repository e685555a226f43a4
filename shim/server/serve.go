package server

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/shim/bootstrap"
	"github.com/pvelxc/pvelxc/shim/container"
	"github.com/pvelxc/pvelxc/shim/events"
	"github.com/pvelxc/pvelxc/shim/reaper"
	"github.com/pvelxc/pvelxc/shim/sandbox/service"
	"github.com/pvelxc/pvelxc/shim/task"
)

const (
	// farewell bounds how long an ending shim stays for its last answers, drainTimeout for its last events.
	farewell     = time.Second
	drainTimeout = 5 * time.Second
)

// serve is the long-lived shim. Its standard streams are /dev/null until it has opened its log.
func (c *command) serve(ctx context.Context) error {
	if err := openLog(logFile); err != nil {
		return err
	}
	if err := c.serveUntilEmpty(ctx); err != nil {
		log.G(ctx).WithError(err).Error("shim failed") // nobody reads what Main prints
		return err
	}
	return nil
}

func (c *command) serveUntilEmpty(ctx context.Context) error {
	unix.CloseOnExec(bootstrap.LeashFD)
	warm()
	listener, err := inherit(bootstrap.ListenerFD)
	if err != nil {
		return err
	}
	if err := reaper.SetSubreaper(); err != nil {
		return err
	}
	queue := events.New(ctx, c.Namespace, events.Config{
		TTRPCAddress: os.Getenv(bootstrap.TTRPCEnv),
		Binary:       c.PublishBinary,
		GRPCAddress:  c.Address,
	})
	server, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(newTrimmer().intercept))
	if err != nil {
		return fmt.Errorf("create server: %w", err)
	}
	ended := make(chan struct{})
	end := sync.OnceFunc(func() {
		// The name goes while the socket still answers: a `start` finds either a shim that will stay, or none. Later it might
		// take away its successor's.
		_ = os.Remove(listener.Addr().String())
		close(ended)
	})
	c.services(queue, end, server)

	go func() {
		if !released(bootstrap.LeashFD) {
			log.G(ctx).Error("start was killed before it could answer")
			end()
		}
	}()

	if c.engine.Started != nil {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		go c.engine.Started(ctx)
	}

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGPIPE) // of a logger or a terminal that has gone
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(ctx, listener) }()

	select {
	case <-ended:
	case s := <-signals:
		log.G(ctx).WithField("signal", s).Info("shim ends")
		end()
	case err := <-failed:
		end()
		return fmt.Errorf("serve: %w", err)
	}
	return finish(ctx, listener, queue)
}

// services adds the services of the shim to server: its containers, and the sandbox that they may belong to.
func (c *command) services(queue *events.Queue, end func(), server *ttrpc.Server) {
	var sandboxes *service.Service
	tasks := task.New(task.Config{
		Namespace: c.Namespace,
		Create:    task.LXC(c.engine.Create),
		Expect:    container.Expect,
		Pod: func() container.Pod {
			if s := sandboxes.Sandbox(); s != nil {
				return s
			}
			return nil
		},
		Events:   queue.Send,
		Shutdown: end,
	})
	sandboxes = service.New(service.Config{Namespace: c.Namespace, Create: c.engine.Sandbox, Tasks: tasks})
	tasks.Register(server)
	sandboxes.Register(server)
}

// released waits for the end of `start` and says whether it answered containerd before.
func released(fd int) bool {
	if err := unix.SetNonblock(fd, true); err != nil { // wait without a thread
		return false
	}
	leash := os.NewFile(uintptr(fd), "leash")
	defer leash.Close()
	n, _ := leash.Read(make([]byte, 1))
	return n == 1
}

// finish lets the last answers and events out.
func finish(ctx context.Context, listener *listener, queue *events.Queue) error {
	answers, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	listener.farewell(answers)
	deliveries, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	if err := queue.Close(deliveries); err != nil {
		return fmt.Errorf("end: %w", err)
	}
	return nil
}
