package main

import (
	"github.com/spf13/cobra"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

func featuresCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "features",
		Short: "Print what the runtime can do, in the form of the OCI runtime specification",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printJSON(cmd.OutOrStdout(), oci2lxc.Features())
		},
	}
}
