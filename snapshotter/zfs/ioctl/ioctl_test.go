package ioctl

import "testing"

func TestSupported(t *testing.T) {
	for version, want := range map[string]bool{
		"2.2.0": true, "2.2.7-pve2": true, "2.3.9-1": true, "2.3.99": true,
		"2.1.15": false, "2.4.0": false, "3.2.1": false, "0.8.6-1": false, "": false, "2.3": false, "2.x.1": false, "v2.3.9": false,
	} {
		if err := Supported(version); (err == nil) != want {
			t.Errorf("%q: %v, want supported %v", version, err, want)
		}
	}
}

// The struct's size is known: 13,744 bytes. What is used of it lies within, and the buffer is larger.
func TestLayout(t *testing.T) {
	if offType+8 > 13744 || cmdSize < 13744 {
		t.Error("struct zfs_cmd does not fit")
	}
}
