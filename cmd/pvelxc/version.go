package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/pvelxc/pvelxc/internal/version"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			release, _ := version.Release()
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "pvelxc %s %s/%s %s\n", release, runtime.GOOS, runtime.GOARCH, runtime.Version())
			return err
		},
	}
}
