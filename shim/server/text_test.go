package server

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCleanMappings(t *testing.T) {
	const smaps = `00400000-00800000 r-xp 00000000 fe:00 12 /usr/bin/shim
Size:               4096 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
00800000-00900000 r--p 00400000 fe:00 12 /usr/bin/shim
Private_Dirty:         4 kB
Anonymous:             4 kB
VmFlags: rd mr mw me sd
00900000-00a00000 rw-p 00500000 fe:00 12 /usr/bin/shim
Private_Dirty:         0 kB
Anonymous:             0 kB
VmFlags: rd wr mr mw me ac sd
7f0000000000-7f0000001000 r-xp 00000000 fe:00 13 /usr/lib/libc.so.6
Private_Dirty:         0 kB
VmFlags: rd ex mr mw me sd
7f0000002000-7f0000003000 r--p 00000000 00:00 0
Private_Dirty:         0 kB
VmFlags: rd mr mw me
`
	got := cleanMappings([]byte(smaps), "/usr/bin/shim")
	want := []mapping{{start: 0x400000, size: 0x400000}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(mapping{})); diff != "" {
		t.Errorf("mappings to release (-want +got):\n%s", diff)
	}
}

// The program goes on after its text was released.
func TestReleaseText(t *testing.T) {
	releaseText()
	if got := cleanMappings(nil, ""); got != nil {
		t.Errorf("no mappings were given, but %v came back", got)
	}
}
