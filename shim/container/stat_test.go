package container

import (
	"os"
	"strings"
	"testing"
)

func TestParseStat(t *testing.T) {
	rest := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20"
	for _, name := range []string{"sh", "a b", "a) R 1 (b", ")"} {
		got, err := parseStat("17 ("+name+")"+rest, statStartTime)
		if err != nil || got != 4242 {
			t.Errorf("start time of process %q: %d, %v; want 4242", name, got, err)
		}
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S 1", "1 (x)" + strings.Replace(rest, "4242", "x", 1)} {
		if _, err := parseStat(bad, statStartTime); err == nil {
			t.Errorf("start time of %q: no error", bad)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("17 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20")
	f.Fuzz(func(t *testing.T, stat string) { _, _ = parseStat(stat, statStartTime) })
}

func TestParentOf(t *testing.T) {
	if got, err := parentOf(os.Getpid()); err != nil || got != os.Getppid() {
		t.Errorf("parent is %d, %v; want %d", got, err, os.Getppid())
	}
	if got, err := parentOf(1); err == nil {
		t.Errorf("PID 1 has the parent %d", got)
	}
}
