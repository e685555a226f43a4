package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/pvelxc/pvelxc/internal/inventory"
)

func listCommand() *cobra.Command {
	var output, address string
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the containers of this node",
		Long: "list shows every container of this node, registered with Proxmox VE or not. It reads the node's own state, so it\n" +
			"answers when containerd does not; then images that only containerd knows are missing.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			show, ok := map[string]func(io.Writer, []inventory.Row) error{
				"": listTable, "wide": listWide, "json": listJSON,
			}[output]
			if !ok {
				return fmt.Errorf("list -o %.40q: no such format: %w (hint: wide or json)", output, errdefs.ErrInvalidArgument)
			}
			if address == "" {
				address = inventory.Address()
			}
			rows, err := inventory.Rows(cmd.Context(), inventory.Options{Images: inventory.Images(address)})
			if err != nil && rows == nil {
				return err
			}
			if err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "pvelxc: list:", err)
			}
			return show(cmd.OutOrStdout(), rows)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "wide or json")
	c.Flags().StringVar(&address, "address", "", "containerd's socket")
	return c
}

func listTable(out io.Writer, rows []inventory.Row) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "VMID\tNAMESPACE\tPOD\tIMAGE\tSTATE\tDATASET\tAGE\tCPU\tMEMORY")
	now := time.Now()
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			vmidText(r), r.Namespace, podText(r), dash(path.Base(r.Image)), r.State, dash(r.Dataset), age(now, r.Started), cpuText(r.CPUSeconds), sizeText(r.MemoryBytes))
	}
	return w.Flush()
}

func listWide(out io.Writer, rows []inventory.Row) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "VMID\tNAMESPACE\tPOD\tNAME\tID\tIMAGE\tSTATE\tPID\tDATASET\tAGE\tCPU\tMEMORY\tROOTFS")
	now := time.Now()
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n",
			vmidText(r), r.Namespace, dash(r.Pod), dash(r.Name), r.ID, dash(r.Image), r.State, r.Pid, dash(r.Dataset), age(now, r.Started),
			cpuText(r.CPUSeconds), sizeText(r.MemoryBytes), dash(r.Rootfs))
	}
	return w.Flush()
}

func listJSON(out io.Writer, rows []inventory.Row) error {
	if rows == nil {
		rows = []inventory.Row{}
	}
	return printJSON(out, rows)
}

// printJSON is what every -o json and --json does.
func printJSON(out io.Writer, v any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

func vmidText(r inventory.Row) string {
	if r.VMID == 0 {
		return "-"
	}
	return r.VMID.String()
}

// podText is the pod, else what nerdctl calls the container, else its id as nerdctl shortens it.
func podText(r inventory.Row) string {
	const short = 12
	switch {
	case r.Pod != "" && r.Sandbox:
		return r.Pod + " (sandbox)"
	case r.Pod != "":
		return r.Pod
	case r.Name != "":
		return r.Name
	case len(r.ID) == 64:
		return r.ID[:short]
	}
	return r.ID
}

func dash(s string) string {
	if s == "" || s == "." {
		return "-"
	}
	return s
}

// age is as kubectl tells it, in one unit.
func age(now, then time.Time) string {
	d := now.Sub(then)
	switch {
	case then.IsZero():
		return "-"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// cpuText is processor time; seconds until there are many.
func cpuText(seconds float64) string {
	if seconds < 100 {
		return fmt.Sprintf("%.1fs", seconds)
	}
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

func sizeText(n uint64) string {
	const kib = 1024
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(n), 0
	for v >= 10*kib && i < len(units)-1 || v >= kib && i == 0 {
		v, i = v/kib, i+1
	}
	return fmt.Sprintf("%.0f %s", v, units[i])
}
