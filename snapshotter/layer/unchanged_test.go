package layer

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Two states of one dataset: only what has kept its inode and its time of change is the same file, unread.
func TestUnchanged(t *testing.T) {
	base := unix.Stat_t{Ino: 7, Size: 5, Ctim: unix.Timespec{Sec: 3, Nsec: 9}, Mtim: unix.Timespec{Sec: 1}}
	if same := base; !unchanged(&base, &same) {
		t.Error("the same file is changed")
	}
	for name, change := range map[string]func(*unix.Stat_t){
		"inode": func(s *unix.Stat_t) { s.Ino++ }, "size": func(s *unix.Stat_t) { s.Size++ },
		"change time": func(s *unix.Stat_t) { s.Ctim.Nsec++ }, "change time, seconds": func(s *unix.Stat_t) { s.Ctim.Sec-- },
		"modification time": func(s *unix.Stat_t) { s.Mtim.Nsec++ },
	} {
		other := base
		change(&other)
		if unchanged(&base, &other) {
			t.Errorf("another %s, and it is unchanged", name)
		}
	}
	// Without the lineage the short cut is not taken: the file would have to be opened, and is not there.
	c := comparison{writer: newWriter(nil, -1, nil)}
	l, u := node{name: "x", stat: base}, node{name: "x", stat: base}
	l.stat.Mode, u.stat.Mode, u.stat.Dev = unix.S_IFREG, unix.S_IFREG, 1
	if same, err := c.same(-1, -1, &l, &u); err == nil {
		t.Errorf("without lineage: %v", same)
	}
	c.descends = true
	if same, err := c.same(-1, -1, &l, &u); err != nil || !same {
		t.Errorf("with lineage: %v, %v", same, err)
	}
}
