package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/api"
)

// nodeClient is of the API that the node's configuration names.
func nodeClient() (*api.Client, error) {
	conf, err := config.Load()
	if err != nil {
		return nil, err
	}
	return apiClient(conf.PVE.API)
}

// poolCommand changes pool membership over PVE's API. The shim runs it for its
// containers, so that it need not hold a TLS client itself; the API and its token are
// those of the node's configuration.
func poolCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "pool join|leave POOL VMID",
		Short:  "Put a container into a resource pool of Proxmox VE, or take it out",
		Hidden: true,
		Args:   cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			vmid, err := pve.ParseVMID(args[2])
			if err != nil {
				return err
			}
			client, err := nodeClient()
			if err != nil {
				return err
			}
			switch args[0] {
			case "join":
				return client.AddToPool(cmd.Context(), args[1], vmid)
			case "leave":
				return client.RemoveFromPool(cmd.Context(), args[1], vmid)
			}
			return fmt.Errorf("pool %s: join and leave are known: %w", args[0], errdefs.ErrInvalidArgument)
		},
	}
}

// stoppedCommand tells a shim which administrator ended its container since a time in seconds since
// 1970, if one did. It is hidden for the same reason.
func stoppedCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "stopped NODE VMID SINCE",
		Short:  "Show who stopped a container in Proxmox VE",
		Hidden: true,
		Args:   cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			vmid, err := pve.ParseVMID(args[1])
			if err != nil {
				return err
			}
			since, err := strconv.ParseInt(args[2], 10, 64)
			if err != nil {
				return fmt.Errorf("time %q: %w: %w", args[2], err, errdefs.ErrInvalidArgument)
			}
			client, err := nodeClient()
			if err != nil {
				return err
			}
			tasks, err := client.Tasks(cmd.Context(), args[0], vmid, time.Unix(since, 0))
			if err != nil {
				return err
			}
			if by := stoppedBy(pveTasks(tasks), true); by != nil {
				fmt.Fprintln(cmd.OutOrStdout(), by.who())
			}
			return nil
		},
	}
}

// guestCommand tells a shim how a guest on another node is, as JSON; nothing of one that the
// token may not see. It is hidden for the same reason.
func guestCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "guest VMID",
		Short:  "Show what the cluster says of a guest",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			vmid, err := pve.ParseVMID(args[0])
			if err != nil {
				return err
			}
			client, err := nodeClient()
			if err != nil {
				return err
			}
			guests, err := client.Guests(cmd.Context())
			if err != nil {
				return err
			}
			for _, g := range guests {
				if g.VMID == vmid {
					return printJSON(cmd.OutOrStdout(), remote(g))
				}
			}
			return nil
		},
	}
}
