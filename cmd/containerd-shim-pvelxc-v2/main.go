// Command containerd-shim-pvelxc-v2 is the containerd shim of the runtime io.containerd.pvelxc.v2: it runs OCI bundles as LXC
// containers. containerd starts it; see package bootstrap.
package main

import (
	"os"

	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/shim/bootstrap"
)

func main() { os.Exit(bootstrap.Main(node.Engine(), os.Args, os.Stdin, os.Stdout, os.Stderr)) }
