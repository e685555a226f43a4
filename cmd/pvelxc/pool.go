package main

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/api"
)

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
			conf, err := config.Load()
			if err != nil {
				return err
			}
			if conf.PVE.API.TokenFile == "" {
				return fmt.Errorf("no API token is configured: %w (hint: set pve.api.token_file)", errdefs.ErrFailedPrecondition)
			}
			client, err := api.New(api.Client{
				URL: conf.PVE.API.URL, TokenFile: conf.PVE.API.TokenFile,
				CAFile: conf.PVE.API.CAFile, Fingerprint: conf.PVE.API.Fingerprint,
			})
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
