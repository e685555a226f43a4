// Command containerd-shim-pvelxc-v2 is what containerd runs for the runtime io.containerd.pvelxc.v2, which makes LXC containers of OCI
// bundles: it starts the shim of a pod, pvelxc-shim, or finds it. See package bootstrap.
package main

import (
	"os"

	"github.com/pvelxc/pvelxc/shim/bootstrap"
)

func main() { os.Exit(bootstrap.Main(os.Args, os.Stdin, os.Stdout, os.Stderr)) }
