package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/internal/doctor"
	"github.com/pvelxc/pvelxc/internal/host"
)

// exitStatus is an error that has been told already.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func doctorCommand() *cobra.Command {
	var asJSON, fix bool
	c := &cobra.Command{
		Use:   "doctor [CHECK...]",
		Short: "Check this node",
		Long:  doctorHelp(),
		Args:  cobra.ArbitraryArgs,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, check := range doctor.Checks {
				names = append(names, check.Name+"\t"+check.About)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			conf, confErr := config.Load()
			if confErr != nil {
				conf = config.Default()
			}
			machine := &host.Host{}
			results, err := doctor.Run(cmd.Context(), doctor.New(cmd.Context(), machine, conf), args...)
			if err != nil {
				return err
			}
			if confErr != nil {
				results = append([]doctor.Result{{Name: "config", Status: doctor.Failure, Message: confErr.Error(), Fix: "pvelxc config check"}}, results...)
			}
			if fix {
				results = mend(cmd, machine, conf, results)
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), results)
			} else {
				err = printResults(cmd, results)
			}
			return errors.Join(err, statusOf(results))
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&fix, "fix", false, "mend what can be mended without a decision of yours")
	return c
}

// statusOf is the exit status that says how bad the worst answer is: 1 for a warning, 2 for a failure; nil for neither.
func statusOf(results []doctor.Result) error {
	if status := doctor.Worst(results) - doctor.OK; status > 0 {
		return exitStatus(status)
	}
	return nil
}

func doctorHelp() string {
	var b strings.Builder
	b.WriteString("doctor asks what keeps containers from running well on this node, and says what to type. It changes nothing without --fix.\n" +
		"The exit status is 0 when all is well, 1 with a warning, 2 with a failure.\n\nChecks:\n\n")
	for _, c := range doctor.Checks {
		fmt.Fprintf(&b, "    %-21s %s\n", c.Name, c.About)
	}
	return strings.TrimRight(b.String(), "\n")
}

// mend mends what can be, and asks those checks again.
func mend(cmd *cobra.Command, machine *host.Host, conf config.Config, results []doctor.Result) []doctor.Result {
	for i, r := range results {
		if r.Mend == nil {
			continue
		}
		if err := r.Mend(cmd.Context()); err != nil {
			results[i].Message += "; --fix failed: " + err.Error()
			continue
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "fixed %s: %s\n", r.Name, r.Fix)
		again, err := doctor.Run(cmd.Context(), doctor.New(cmd.Context(), machine, conf), r.Name)
		if err == nil {
			results[i] = again[0]
		}
	}
	return results
}

// marks are the signs of a status, and the colours of those.
var marks = map[doctor.Status][2]string{
	doctor.Skipped: {"–", "2"}, doctor.OK: {"✓", "32"}, doctor.Warning: {"!", "33"}, doctor.Failure: {"✗", "31"},
}

func printResults(cmd *cobra.Command, results []doctor.Result) error {
	out, screen := cmd.OutOrStdout(), screenOf(cmd)
	for _, r := range results {
		if screen.quiet && r.Status <= doctor.OK {
			continue
		}
		mark := marks[r.Status]
		if _, err := fmt.Fprintf(out, "%s %-21s %s\n", screen.paint(mark[1], mark[0]), r.Name, printable(r.Message)); err != nil {
			return err
		}
		if r.Fix != "" {
			fmt.Fprintf(out, "  fix: %s\n", printable(r.Fix))
		}
	}
	count := map[doctor.Status]int{}
	for _, r := range results {
		count[r.Status]++
	}
	if screen.quiet {
		return nil
	}
	return summary(out, count)
}

func summary(out io.Writer, count map[doctor.Status]int) error {
	_, err := fmt.Fprintf(out, "%d checks: %d ok, %d warnings, %d failures, %d not for this node\n",
		count[doctor.OK]+count[doctor.Warning]+count[doctor.Failure]+count[doctor.Skipped], count[doctor.OK], count[doctor.Warning], count[doctor.Failure], count[doctor.Skipped])
	return err
}
