package snapshotter

import (
	"time"

	"golang.org/x/sys/unix"
)

// tick is a reading of the clock that the kernel takes times of change from, which stands still for some milliseconds.
type tick unix.Timespec

func now() tick {
	var t unix.Timespec
	// It cannot fail: the clock exists and the pointer is good.
	_ = unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &t)
	return tick(t)
}

// pass returns when the clock has moved on: a file that is changed from then on has another time of change than it had in
// a snapshot that was made by then, which is what layer.CompareOptions.Descends builds on. As a rule the database has
// taken longer than that.
func (t tick) pass() {
	for now() == t {
		time.Sleep(time.Millisecond)
	}
}
