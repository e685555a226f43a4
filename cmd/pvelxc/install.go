package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/pvelxc/pvelxc/internal/host"
	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/internal/setup"
	"github.com/pvelxc/pvelxc/pve"
)

func installCommand() *cobra.Command {
	var o setup.Options
	var pool, vmids string
	var dryRun bool
	c := &cobra.Command{
		Use:   "install",
		Short: "Set this node up: snapshotter, containerd, timer; and run a container",
		Long: "install makes the node's containerd run containers as LXC containers. Its steps are ordered and idempotent; where one fails, all that\n" +
			"this run did is undone. Tables of containerd's configuration that exist are never touched.\n\n" +
			"With --pool, images and containers are on ZFS, in POOL/pvelxc. Without it they stay on the snapshotter that is there.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if pool != "" && o.Dataset != "" {
				return fmt.Errorf("install: --pool and --dataset exclude each other: %w (hint: --pool %s is --dataset %s/pvelxc)", errdefs.ErrInvalidArgument, pool, pool)
			}
			if pool != "" {
				o.Dataset = strings.Trim(pool, "/") + "/pvelxc"
			}
			if vmids != "" {
				var err error
				if o.Range, err = pve.ParseRange(vmids); err != nil {
					return fmt.Errorf("install: --vmid-range: %w", err)
				}
			}
			s := newSetup(o)
			if err := runSteps(cmd, s.Install(), dryRun, "install"); err != nil {
				return err
			}
			if !dryRun && !screenOf(cmd).quiet {
				fmt.Fprintf(cmd.OutOrStdout(), "next: %s\n", s.Next())
			}
			return nil
		},
	}
	c.Flags().StringVar(&pool, "pool", "", "the ZFS pool, or a dataset in it, for images and containers")
	c.Flags().StringVar(&o.Dataset, "dataset", "", "the dataset itself, such as rpool/pvelxc")
	c.Flags().StringVar(&vmids, "vmid-range", "", "the VMIDs to give, such as 900000-909999")
	c.Flags().BoolVar(&o.NoRestart, "no-restart", false, "do not restart containerd")
	c.Flags().BoolVar(&o.NoHello, "no-hello", false, "do not run a container at the end")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "show what would change")
	return c
}

func uninstallCommand() *cobra.Command {
	var o setup.Options
	var dryRun bool
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Take pvelxc out of this node's containerd",
		Long: "uninstall reverses install. Images and containers on ZFS stay; the last line says how to remove them.\n" +
			"It refuses while containers run, unless --force, which leaves them running.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s := newSetup(o)
			dataset := s.CurrentDataset()
			if err := runSteps(cmd, s.Uninstall(), dryRun, "uninstall"); err != nil || dryRun {
				return err
			}
			next := "apt purge pvelxc"
			if dataset != "" {
				next += " && zfs destroy -r " + dataset
			}
			if !screenOf(cmd).quiet {
				fmt.Fprintf(cmd.OutOrStdout(), "next: %s\n", next)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&o.Force, "force", false, "even while containers run")
	c.Flags().BoolVar(&o.NoRestart, "no-restart", false, "do not restart containerd")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "show what would change")
	return c
}

func newSetup(o setup.Options) *setup.Setup {
	return &setup.Setup{
		Host: &host.Host{}, Options: o, Containers: node.Containers,
		Hello: func() ([]byte, error) {
			self, err := os.Executable()
			if err != nil {
				return nil, fmt.Errorf("find this program: %w", err)
			}
			return setup.Image(self, helloName)
		},
	}
}

// runSteps shows the steps as they go.
func runSteps(cmd *cobra.Command, steps []setup.Step, dryRun bool, what string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s: it changes containerd's configuration: %w (hint: sudo pvelxc %s)", what, errdefs.ErrPermissionDenied, what)
	}
	screen := screenOf(cmd)
	p := newProgress(cmd.OutOrStdout(), screen, len(steps))
	err := setup.Run(cmd.Context(), steps, dryRun, func(e setup.Event) {
		if e.State == setup.Begins {
			p.at(e.Number-1, e.Step)
			return
		}
		bad := e.State == setup.Failed || e.State == setup.Stuck
		if screen.quiet && !bad {
			return
		}
		colour := map[bool]string{true: "31", false: "32"}[bad]
		p.line("[%d/%d] %-12s %s", e.Number, e.Of, e.Step, screen.paint(colour, string(e.State)))
		if dryRun || e.State == setup.Done || e.State == setup.Already {
			for line := range strings.Lines(strings.TrimRight(e.Text, "\n")) {
				p.line("    %s", strings.TrimRight(line, "\n"))
			}
		}
	})
	p.end()
	var failed *setup.Failure
	if errors.As(err, &failed) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return err
}

// helloName is the subcommand that install's container runs.
const helloName = "hello"

func helloCommand() *cobra.Command {
	return &cobra.Command{
		Use: helloName, Short: "Wait to be looked at", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(context.WithoutCancel(cmd.Context()), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			fmt.Fprintln(cmd.OutOrStdout(), "hello from an LXC container")
			<-ctx.Done()
			return nil
		},
	}
}
