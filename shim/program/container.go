package program

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// Container is what pvelxc-monitor is told of the container that it is to start.
type Container struct {
	// Stdin, Stdout and Stderr become those of PID 1, Init is what it is executed from.
	Stdin, Stdout, Stderr, Init *os.File
	// Name and LXCPath are what LXC's tools find the container by.
	Name, LXCPath string
	// Config is the path of the LXC config, ExitFile that of the file that the monitor
	// leaves the exit status in.
	Config, ExitFile string
}

// SendContainer gives a waiting pvelxc-monitor its container.
func (c *Conn) SendContainer(ctx context.Context, of Container) error {
	message := newMessage(MsgContainer, Version)
	for _, text := range []string{of.Name, of.LXCPath, of.Config, of.ExitFile} {
		if strings.IndexByte(text, 0) >= 0 {
			return fmt.Errorf("send to pvelxc-monitor: NUL byte in %q", text)
		}
		message = order.AppendUint32(message, uint32(len(text)))
		message = append(append(message, text...), 0)
	}
	if len(message) > msgSize+maxContainer {
		return fmt.Errorf("send to pvelxc-monitor: the paths of container %.100s are longer than %d bytes", of.Name, maxContainer)
	}
	return c.send(ctx, message, []*os.File{of.Stdin, of.Stdout, of.Stderr, of.Init})
}
