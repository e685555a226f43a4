package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/shim/bootstrap"
)

// logFile is the FIFO that containerd reads, in the bundle of the shim's first container.
const logFile = "log"

// logWriter drops what does not fit: a shim must not wait for its log while containerd is away.
type logWriter int

func (fd logWriter) Write(line []byte) (int, error) {
	_, _ = unix.Write(int(fd), line)
	return len(line), nil
}

// openLog sends the log, and the runtime's last words, to the FIFO at path. Holding its read end, too, the shim survives
// containerd's restarts; the next containerd reads what the FIFO kept.
func openLog(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // not started by containerd
	}
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer file.Close()
	if err := unix.Dup3(int(file.Fd()), unix.Stderr, 0); err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	if err := unix.SetNonblock(unix.Stderr, true); err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	log.L.Logger.SetOutput(logWriter(unix.Stderr))
	log.L.Logger.SetFormatter(&logrus.TextFormatter{TimestampFormat: log.RFC3339NanoFixed, FullTimestamp: true, DisableColors: true})
	log.L = log.L.WithField("runtime", bootstrap.Runtime)
	return nil
}
