package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/internal/doctor"
	"github.com/pvelxc/pvelxc/internal/garbage"
	"github.com/pvelxc/pvelxc/internal/host"
	"github.com/pvelxc/pvelxc/pve"
)

func gcCommand() *cobra.Command {
	var apply, asJSON bool
	var textfile string
	c := &cobra.Command{
		Use:   "gc",
		Short: "Find what nothing uses any more, and remove it",
		Long: "gc looks for what this node's containers have left:\n\n" +
			"    conf       confs that carry this node's marker, compared with the containers of this node\n" +
			"    container  containers that containerd has forgotten: neither their bundle nor their shim is there\n" +
			"    directory  state directories of containers that were never made\n" +
			"    cgroup     control groups of containers that are gone\n" +
			"    dataset    datasets and snapshots that the snapshotter has removed or lost; it is asked through its socket\n\n" +
			"It prints each with the reason and changes nothing, unless with --apply. What is somebody else's, and what runs under a shim, is\n" +
			"never touched. containerd is asked for images that notes lack, and the API of Proxmox VE, where a token is configured, for what\n" +
			"runs on other nodes and for pools; without their answers the rest is done.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := config.Load()
			if err != nil {
				return err
			}
			out, screen := cmd.OutOrStdout(), screenOf(cmd)
			show := screen
			show.quiet = show.quiet || asJSON
			r, err := collectGarbage(cmd.Context(), conf, apply, newProgress(out, show, 1), func(err error) { fmt.Fprintln(cmd.ErrOrStderr(), "pvelxc: gc:", err) })
			if textfile != "" {
				err = errors.Join(err, writeTextfile(textfile, r, err))
			}
			if asJSON {
				return errors.Join(err, r.printJSON(out))
			}
			return errors.Join(err, r.print(out, screen))
		},
	}
	c.Flags().BoolVar(&apply, "apply", false, "do it")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&textfile, "textfile", "", "write metrics to `FILE`, a .prom file of node_exporter's textfile collector")
	return c
}

// gcReport is what a run found, and did when it was applied.
type gcReport struct {
	applied bool
	confs   pve.Report
	items   []garbage.Item
}

// collectGarbage reconciles the confs last: a container that is taken away takes its conf along. warn is told of answers that it
// goes without.
func collectGarbage(ctx context.Context, conf config.Config, apply bool, p *progress, warn func(error)) (r gcReport, err error) {
	defer p.end()
	p.plain = true
	r.applied = apply
	sources := []garbage.Source{garbage.Containers(), garbage.Cgroups()}
	address, err := doctor.SnapshotterAddress(&host.Host{})
	if address != "" {
		sources = append(sources, garbage.Datasets(address))
	}
	const confs = 1
	done, total := 0, 1
	items, collectErr := garbage.Collect(ctx, sources, apply, func(doing string, left int) {
		if more := done + left + confs - total; more > 0 {
			p.more(more)
			total += more
		}
		p.at(done, doing)
		done++
	})
	p.at(total-confs, "comparing confs")
	r.items = items
	var confErr error
	r.confs, confErr = reconcile(ctx, conf, !apply, warn)
	return r, errors.Join(err, collectErr, confErr)
}

// because is what an action on a conf is done for.
var because = map[pve.Action]string{
	pve.Removed:   "it has no container",
	pve.Restored:  "its container has no conf",
	pve.Returned:  "Proxmox VE moved it to another node",
	pve.Locked:    "its container does not run",
	pve.Unlocked:  "its container runs",
	pve.Described: "its note has no image",
	pve.Swept:     "a write to it was interrupted",
	pve.Orphan:    "it has no container, and something runs under its VMID",
	pve.Conflict:  "its VMID is somebody else's",
	pve.Joined:    "its container is not in its pool",
}

func (r gcReport) print(out io.Writer, s screen) error {
	line := func(kind, name, action, reason string, err error) error {
		if err != nil {
			reason += ": " + err.Error()
		}
		_, err = fmt.Fprintf(out, "%-9s %-24s %-9s %s\n", kind, printable(name), action, printable(reason))
		return err
	}
	for _, i := range r.items {
		if err := line(i.Kind, i.Name, i.Action(), i.Reason, i.Err); err != nil {
			return err
		}
	}
	for _, c := range r.confs.Changes {
		reason := because[c.Action]
		if c.Owner != (pve.Owner{}) {
			reason = c.Owner.String() + ": " + reason
		}
		if err := line("conf", c.VMID.String(), string(c.Action), reason, c.Err); err != nil {
			return err
		}
	}
	if s.quiet {
		return nil
	}
	_, err := fmt.Fprintf(out, "%d confs, %d containers, %d of them unregistered, %d changes, %d leftovers\n",
		r.confs.Confs, r.confs.Tasks, r.confs.Unregistered, len(r.confs.Changes), len(r.items))
	if err == nil && !r.applied && len(r.confs.Changes)+len(r.items) > 0 {
		_, err = fmt.Fprintln(out, "nothing was changed (hint: pvelxc gc --apply)")
	}
	return err
}

// printJSON is the report for programs. Its keys stay.
func (r gcReport) printJSON(out io.Writer) error {
	type change struct {
		Action    pve.Action `json:"action"`
		VMID      pve.VMID   `json:"vmid"`
		Node      string     `json:"node,omitempty"`
		Namespace string     `json:"namespace,omitempty"`
		ID        string     `json:"id,omitempty"`
		Error     string     `json:"error,omitempty"`
	}
	changes := make([]change, len(r.confs.Changes))
	for i, c := range r.confs.Changes {
		changes[i] = change{Action: c.Action, VMID: c.VMID, Node: c.Owner.Node, Namespace: c.Owner.Namespace, ID: c.Owner.ID, Error: errorText(c.Err)}
	}
	type leftover struct {
		garbage.Item
		Error string `json:"error,omitempty"`
	}
	leftovers := make([]leftover, len(r.items))
	for i, item := range r.items {
		leftovers[i] = leftover{item, errorText(item.Err)}
	}
	return printJSON(out, struct {
		Applied      bool       `json:"applied"`
		Confs        int        `json:"confs"`
		Containers   int        `json:"containers"`
		Unregistered int        `json:"unregistered"`
		Changes      []change   `json:"changes"`
		Leftovers    []leftover `json:"leftovers"`
	}{r.applied, r.confs.Confs, r.confs.Tasks, r.confs.Unregistered, changes, leftovers})
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
