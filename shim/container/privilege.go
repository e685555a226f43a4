package container

import (
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/lsm"
)

// missingCapabilities are those that the shim's children cannot have, as bits: a
// containerd in a container, or behind CapabilityBoundingSet=, lacks some.
var missingCapabilities = sync.OnceValue(func() (missing uint64) {
	for n := range uint(64) {
		// EINVAL: the kernel does not know it.
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0); err != nil || has == 0 {
			missing |= 1 << n
		}
	}
	return missing
})

// checkProfile refuses an AppArmor profile that the kernel does not have: else the
// change to it would fail only when the program is executed.
func checkProfile(p *oci2lxc.Process) error {
	if p.AppArmorProfile == "" {
		return nil
	}
	// Who may not read the list, as in a namespace of AppArmor's, learns it at execve.
	loaded, err := lsm.ProfileLoaded(p.AppArmorProfile)
	if err != nil || loaded {
		return nil //nolint:nilerr // see above
	}
	return fmt.Errorf("process.apparmorProfile: the AppArmor profile %q is not loaded: %w (hint: apparmor_parser -r FILE)",
		p.AppArmorProfile, errdefs.ErrFailedPrecondition)
}
