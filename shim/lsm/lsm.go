// Package lsm says which Linux security modules the host's kernel enforces.
package lsm

import (
	"os"
	"strings"
	"sync"
)

// AppArmorEnabled says whether the kernel has AppArmor enabled
// (/sys/module/apparmor/parameters/enabled) and its interface is mounted.
var AppArmorEnabled = sync.OnceValue(func() bool {
	data, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || !strings.HasPrefix(string(data), "Y") {
		return false
	}
	_, err = os.Stat("/sys/kernel/security/apparmor")
	return err == nil
})

// SELinuxEnabled says whether a policy is loaded, as is_selinux_enabled(3) does: by
// the mount of selinuxfs.
var SELinuxEnabled = sync.OnceValue(func() bool {
	_, err := os.Stat("/sys/fs/selinux/enforce")
	return err == nil
})
