// Package layout says where on the host the programs keep what they share: constants
// and names, and nothing that would cost a program that starts often.
package layout

import "path/filepath"

// Root is the state directory of all containers; it is on a tmpfs, so a host reboot
// leaves nothing behind.
const Root = "/run/pvelxc"

// Home is a container's own directory below a state directory. It exists from before
// the first thing is made for the container until the last of it is gone, whatever
// dies between.
func Home(root, namespace, id string) string {
	return filepath.Join(root, "lxc", namespace, id)
}

// Sandbox is the directory of a pod's sandbox that the shim holds without a container. It
// exists from before the first thing is put there until the last of it is gone.
func Sandbox(root, namespace, id string) string {
	return filepath.Join(root, "sandbox", namespace, id)
}
