package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/pve"
)

func gcCommand() *cobra.Command {
	var apply, asJSON bool
	var textfile string
	c := &cobra.Command{
		Use:   "gc",
		Short: "Make what Proxmox VE knows agree with the containers of this node",
		Long: "gc compares the confs that carry this node's marker with the containers of this node. It prints what it would do, and with --apply does it.\n" +
			"A conf of somebody else, or one whose container runs, is never removed.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := config.Load()
			if err != nil {
				return err
			}
			report, err := node.Reconcile(cmd.Context(), conf, !apply)
			show := printReport
			if asJSON {
				show = printReportJSON
			}
			if textfile != "" {
				err = errors.Join(err, writeTextfile(textfile, report, err))
			}
			return errors.Join(err, show(cmd.OutOrStdout(), report, apply))
		},
	}
	c.Flags().BoolVar(&apply, "apply", false, "do it")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&textfile, "textfile", "", "write metrics to `FILE`, a .prom file of node_exporter's textfile collector")
	return c
}

func printReport(out io.Writer, r pve.Report, applied bool) error {
	for _, c := range r.Changes {
		line := fmt.Sprintf("%d  %-9s %s", c.VMID, c.Action, c.Owner)
		if c.Err != nil {
			line += ": " + c.Err.Error()
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "%d confs, %d containers, %d of them unregistered, %d changes\n", r.Confs, r.Tasks, r.Unregistered, len(r.Changes))
	if err == nil && !applied && len(r.Changes) > 0 {
		_, err = fmt.Fprintln(out, "nothing was changed (hint: pvelxc gc --apply)")
	}
	return err
}

// printReportJSON is the report for programs. Its keys stay.
func printReportJSON(out io.Writer, r pve.Report, applied bool) error {
	type change struct {
		Action    pve.Action `json:"action"`
		VMID      pve.VMID   `json:"vmid"`
		Node      string     `json:"node,omitempty"`
		Namespace string     `json:"namespace,omitempty"`
		ID        string     `json:"id,omitempty"`
		Error     string     `json:"error,omitempty"`
	}
	changes := make([]change, len(r.Changes))
	for i, c := range r.Changes {
		changes[i] = change{Action: c.Action, VMID: c.VMID, Node: c.Owner.Node, Namespace: c.Owner.Namespace, ID: c.Owner.ID}
		if c.Err != nil {
			changes[i].Error = c.Err.Error()
		}
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(struct {
		Applied      bool     `json:"applied"`
		Confs        int      `json:"confs"`
		Containers   int      `json:"containers"`
		Unregistered int      `json:"unregistered"`
		Changes      []change `json:"changes"`
	}{applied, r.Confs, r.Tasks, r.Unregistered, changes})
}
