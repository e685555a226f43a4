package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/container"
)

// finding is a field that is ignored or refused.
type finding struct {
	Field  string `json:"field"`
	Reason string `json:"reason"`
	Hint   string `json:"hint,omitempty"`
}

// explanation is what explain prints, and a part of what inspect does. Its JSON keys stay.
type explanation struct {
	LXC string `json:"lxc,omitempty"`
	PVE string `json:"pve,omitempty"`
	// Unregistered is why there is no PVE conf.
	Unregistered string    `json:"unregistered,omitempty"`
	Ignored      []finding `json:"ignored"`
	Refused      []finding `json:"refused"`
}

func explainCommand() *cobra.Command {
	var id, namespace, output string
	c := &cobra.Command{
		Use:   "explain BUNDLE",
		Short: "Show what would become of an OCI bundle, and change nothing",
		Long: "explain converts the bundle as a start would: the LXC config, the conf for Proxmox VE, and every field of config.json\n" +
			"that is ignored or refused, with the reason. It makes, mounts and registers nothing.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "" && output != "json" {
				return fmt.Errorf("explain -o %.40q: no such format: %w (hint: json)", output, errdefs.ErrInvalidArgument)
			}
			conf, err := config.Load()
			if err != nil {
				return err
			}
			bundle, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("explain %s: %w", args[0], err)
			}
			if id == "" {
				id = filepath.Base(bundle)
			}
			e, err := node.Explain(cmd.Context(), conf, container.Config{ID: id, Namespace: namespace, Bundle: bundle})
			if err != nil {
				return fmt.Errorf("explain %s: %w (hint: a bundle is a directory with config.json)", args[0], err)
			}
			shown, err := explain(e)
			if err != nil {
				return err
			}
			if output == "json" {
				err = printJSON(cmd.OutOrStdout(), shown)
			} else {
				err = shown.print(cmd.OutOrStdout())
			}
			if err == nil && e.Refused != nil {
				return fmt.Errorf("explain %s: the bundle is refused: %w", args[0], e.Refused)
			}
			return err
		},
	}
	c.Flags().StringVar(&id, "id", "", "the container's id (default: the bundle's last part)")
	c.Flags().StringVarP(&namespace, "namespace", "n", "default", "containerd's namespace")
	c.Flags().StringVarP(&output, "output", "o", "", "json")
	return c
}

func explain(e node.Explanation) (explanation, error) {
	out := explanation{Unregistered: e.Unregistered, Ignored: []finding{}, Refused: refusals(e.Refused)}
	for _, w := range e.Warnings {
		out.Ignored = append(out.Ignored, finding{Field: w.Field, Reason: w.Reason})
	}
	if e.Plan != nil {
		text, err := e.Plan.Config.Render()
		if err != nil {
			return out, err
		}
		out.LXC = string(text)
	}
	if e.Conf != nil {
		out.PVE = string(e.Conf.Bytes())
	}
	return out, nil
}

// refusals lists the fields that an error of the conversion is about.
func refusals(err error) []finding {
	list := []finding{}
	var all oci2lxc.Refusals
	var one *oci2lxc.FieldError
	switch {
	case errors.As(err, &all):
	case errors.As(err, &one):
		all = oci2lxc.Refusals{one}
	}
	for _, f := range all {
		list = append(list, finding{Field: f.Field, Reason: f.Reason, Hint: f.Hint})
	}
	return list
}

func (e explanation) print(out io.Writer) error {
	for _, section := range []struct{ title, text string }{{"LXC config", e.LXC}, {"Proxmox VE conf", e.PVE}} {
		if section.text == "" {
			continue
		}
		if _, err := fmt.Fprintf(out, "── %s\n%s\n", section.title, section.text); err != nil {
			return err
		}
	}
	if e.PVE == "" && e.LXC != "" {
		fmt.Fprintf(out, "── Proxmox VE conf\nnone: %s\n\n", e.Unregistered)
	}
	if err := printFindings(out, "ignored", e.Ignored); err != nil {
		return err
	}
	return printFindings(out, "refused", e.Refused)
}

func printFindings(out io.Writer, title string, list []finding) error {
	if len(list) == 0 {
		_, err := fmt.Fprintf(out, "── %s: nothing\n", title)
		return err
	}
	fmt.Fprintf(out, "── %s\n", title)
	for _, f := range list {
		line := f.Field + ": " + f.Reason
		if f.Hint != "" {
			line += " (hint: " + f.Hint + ")"
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	return nil
}
