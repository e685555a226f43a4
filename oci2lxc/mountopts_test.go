package oci2lxc

import (
	"slices"
	"strings"
	"testing"
)

// specOptions are the options of config.md, "Linux mount options".
const specOptions = `async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime
noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime relatime
remount rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared
rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable
idmap ridmap rnodev`

// TestSpecOptions wants every option of the specification understood, not handed to the
// filesystem, and announced.
func TestSpecOptions(t *testing.T) {
	announced := Features().MountOptions
	for _, o := range strings.Fields(specOptions) {
		m := parseMountOptions([]string{o})
		if len(m.data) > 0 {
			t.Errorf("%s is left to the filesystem", o)
		}
		if !slices.Contains(announced, o) {
			t.Errorf("%s is missing in Features", o)
		}
	}
	for _, o := range announced {
		if m := parseMountOptions([]string{o}); len(m.data) > 0 {
			t.Errorf("Features announces %s, which is left to the filesystem", o)
		}
	}
}
