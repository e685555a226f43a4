// Command pvelxc-shim serves the containers of one pod to containerd. containerd-shim-pvelxc-v2 starts it; see package server.
package main

import (
	"os"

	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/shim/server"
)

func main() { os.Exit(server.Main(node.Engine(), os.Args, os.Stdin, os.Stdout, os.Stderr)) }
