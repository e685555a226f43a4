package layer

import (
	"archive/tar"
	"fmt"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// maxFilled is the size up to which a file's content is written beside the reading of the archive.
	maxFilled = 64 << 10
	// maxFills bounds the files whose content waits, and with it descriptors and memory; maxFillers those who write.
	maxFills   = 32
	maxFillers = 4
)

// filler gives new files their content, owner, attributes and times, beside the one who reads the archive and makes the
// names in its order. A file is filled through its descriptor, whatever becomes of its name meanwhile.
type filler struct {
	// waiting has room for all, so that nobody who has one waits.
	waiting chan *fill
	free    chan *fill
	made    int
	running sync.WaitGroup
	ended   sync.WaitGroup

	mu  sync.Mutex
	err error // guarded by mu; the first one
}

// fill is one file that is being filled.
type fill struct {
	fd   int
	h    *tar.Header
	data []byte
	buf  [maxFilled]byte
}

func newFiller() *filler {
	return &filler{waiting: make(chan *fill, maxFills), free: make(chan *fill, maxFills)}
}

// take gives one to be filled in, as soon as there is one.
func (f *filler) take() *fill {
	select {
	case j := <-f.free:
		return j
	default:
	}
	if f.made == maxFills {
		return <-f.free
	}
	f.made++
	if f.made <= min(maxFillers, runtime.GOMAXPROCS(0)) {
		f.ended.Go(f.work)
	}
	return &fill{}
}

// start has a file filled, whose descriptor is the filler's from then on.
func (f *filler) start(j *fill) {
	f.running.Add(1)
	f.waiting <- j
}

func (f *filler) work() {
	for j := range f.waiting {
		// After a failure only descriptors are closed.
		if f.failed() == nil {
			f.fail(j.h, finishFile(j.fd, j.h, j.data))
		} else {
			unix.Close(j.fd)
		}
		j.h = nil
		f.free <- j
		f.running.Done()
	}
}

// finishFile writes a new file's content and all that is to know of it, and closes it.
func finishFile(fd int, h *tar.Header, data []byte) error {
	err := writeAll(fd, data)
	if err == nil {
		err = describeFile(fd, h)
	}
	if e := unix.Close(fd); err == nil {
		err = e
	}
	return err
}

func (f *filler) fail(h *tar.Header, err error) {
	if err == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = entryError(h.Name, err)
	}
}

func (f *filler) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// wait returns when all that was started is done, with the first failure.
func (f *filler) wait() error {
	f.running.Wait()
	return f.failed()
}

// close ends the filler, when nothing is started any more.
func (f *filler) close() {
	close(f.waiting)
	f.ended.Wait()
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil && err != unix.EINTR {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

// file makes a regular file. A small one is filled beside what follows in the archive.
func (a *applier) file(d *directory, base string, h *tar.Header) error {
	var fd int
	// What the mode has beyond these bits comes last: the owner's change would clear it.
	err := a.replace(d, base, func() (err error) {
		fd, err = unix.Openat(d.fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(h.Mode&0o777))
		return err
	})
	if err != nil {
		return err
	}
	if h.Size > maxFilled {
		err := a.copy(fd)
		if err != nil {
			unix.Close(fd)
			return err
		}
		return finishFile(fd, h, nil)
	}
	j := a.filler.take()
	n, err := io.ReadFull(a.tar, j.buf[:h.Size])
	if err != nil {
		unix.Close(fd)
		a.filler.free <- j
		return fmt.Errorf("read the layer: %w", err)
	}
	j.fd, j.h, j.data = fd, h, j.buf[:n]
	a.filler.start(j)
	return nil
}

// copy writes the entry's content as it is read.
func (a *applier) copy(fd int) error {
	if a.buf == nil {
		a.buf = make([]byte, 256<<10)
	}
	for {
		n, err := a.tar.Read(a.buf)
		if err := writeAll(fd, a.buf[:n]); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the layer: %w", err)
		}
	}
}
