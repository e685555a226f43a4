// Command pvelxc is the administrator's side of the runtime. Each subcommand has a file of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	if message := takenForRunc(os.Args[1:]); message != "" {
		tellRuncsCaller(os.Args[1:], message)
		fmt.Fprintln(os.Stderr, message)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := newCommand(os.Stdout).ExecuteContext(ctx)
	stop()
	var told exitStatus
	switch {
	case errors.As(err, &told):
		os.Exit(int(told))
	case err != nil:
		fmt.Fprintln(os.Stderr, "pvelxc:", err)
		os.Exit(1)
	}
}

// newCommand is the whole command line; what it prints goes to out.
func newCommand(out io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:           "pvelxc",
		Short:         "Look after the containers that containerd runs as LXC containers",
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(out)
	root.PersistentFlags().BoolP("quiet", "q", false, "say only what is wrong")
	root.AddCommand(listCommand(), inspectCommand(), explainCommand(), logsCommand(), doctorCommand(), installCommand(), uninstallCommand(), helloCommand(), supportCommand(), featuresCommand(), gcCommand(), configCommand(), versionCommand(), poolCommand(), guestCommand(), stoppedCommand())
	return root
}
