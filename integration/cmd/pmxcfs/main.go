// Command pmxcfs mounts an emulated cluster file system of Proxmox VE until it is told to stop:
//
//	pmxcfs NODE DIRECTORY
//
// SIGUSR1 takes the cluster's quorum away, SIGUSR2 gives it back.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/pvelxc/pvelxc/pve/pvetest"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pmxcfs:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: pmxcfs NODE DIRECTORY")
	}
	// Before the mount: who waits for it may signal at once.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGUSR2)
	m, err := pvetest.NewCluster(args[0]).Mount(args[0], args[1])
	if err != nil {
		return err
	}
	for s := range signals {
		switch s {
		case syscall.SIGUSR1, syscall.SIGUSR2:
			m.SetQuorum(s == syscall.SIGUSR2)
		default:
			return m.Close()
		}
	}
	return nil
}
