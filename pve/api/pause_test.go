package api

import (
	"testing"
	"time"
)

func TestPauses(t *testing.T) {
	for attempt, want := range map[int]time.Duration{1: 200 * time.Millisecond, 2: 400 * time.Millisecond, 4: 1600 * time.Millisecond, 7: 10 * time.Second, 1000: 10 * time.Second} {
		if got := pauseBefore(attempt, 200*time.Millisecond); got != want {
			t.Errorf("before attempt %d: %v, want %v", attempt, got, want)
		}
	}
}
