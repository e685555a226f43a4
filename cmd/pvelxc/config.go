package main

import (
	"fmt"
	"os"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"github.com/pvelxc/pvelxc/internal/config"
)

func configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Show or check the configuration of this node", Args: cobra.NoArgs}
	c.AddCommand(
		&cobra.Command{
			Use:   "default",
			Short: "Print the configuration of a node that has no file",
			Args:  cobra.NoArgs,
			RunE:  func(cmd *cobra.Command, _ []string) error { return printConfig(cmd, config.Default()) },
		},
		&cobra.Command{
			Use:   "check [FILE]",
			Short: "Check FILE, or the node's own file",
			Args:  cobra.MaximumNArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				if len(args) == 1 {
					if err := os.Setenv(config.EnvPath, args[0]); err != nil {
						return fmt.Errorf("check %s: %w", args[0], err)
					}
				}
				_, err := config.Load()
				return err
			},
		},
		&cobra.Command{
			Use:   "dump",
			Short: "Print what is in force: the node's file over the defaults",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				conf, err := config.Load()
				if err != nil {
					return err
				}
				return printConfig(cmd, conf)
			},
		},
	)
	return c
}

func printConfig(cmd *cobra.Command, conf config.Config) error {
	if err := toml.NewEncoder(cmd.OutOrStdout()).Encode(conf); err != nil {
		return fmt.Errorf("print the configuration: %w", err)
	}
	return nil
}
