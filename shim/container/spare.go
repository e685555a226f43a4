package container

import (
	"sync"

	"github.com/pvelxc/pvelxc/shim/cgroup"
)

// spare is a monitor that waits for a container, or is about to: the kernel takes as
// long to map liblxc and all its libraries as liblxc takes to start a container.
type spare struct {
	ready   chan struct{} // closed when the rest is set
	monitor *monitor
	err     error
}

// next is the spare for the next container; nil for none.
var next struct {
	sync.Mutex
	spare *spare
}

// Expect is told when a container will soon be created: what takes long and does not
// depend on it is done meanwhile. It is a hint, and returns at once.
func Expect() {
	next.Lock()
	defer next.Unlock()
	if next.spare == nil {
		next.spare = newSpare()
	}
	go warm()
}

// takeSpare takes what Expect has made, or begins to make one.
func takeSpare() *spare {
	next.Lock()
	defer next.Unlock()
	s := next.spare
	next.spare = nil
	if s == nil {
		s = newSpare()
	}
	return s
}

func newSpare() *spare {
	s := &spare{ready: make(chan struct{})}
	go func() {
		defer cgroup.Prime() // liblxc will move the monitor; a fork would wait for that
		defer close(s.ready)
		programs, err := findPrograms()
		if err != nil {
			s.err = err
			return
		}
		s.monitor, s.err = spawnMonitor(programs)
	}()
	return s
}

// take is the monitor, the caller's from now on. One that has died while it waited is
// replaced.
func (s *spare) take(p *Programs) (*monitor, error) {
	<-s.ready
	if s.err != nil {
		return nil, s.err
	}
	m := s.monitor
	s.monitor = nil
	select {
	case <-m.gone:
		m.close()
		return spawnMonitor(p)
	default:
		return m, nil
	}
}

// giveBack leaves a spare that nobody took to the next container.
func (s *spare) giveBack() {
	<-s.ready
	if s.monitor == nil {
		return
	}
	next.Lock()
	defer next.Unlock()
	if next.spare == nil {
		next.spare = s
		return
	}
	s.monitor.close()
}
