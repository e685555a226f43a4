package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/internal/inventory"
	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/pve"
	pveconf "github.com/pvelxc/pvelxc/pve/conf"
	"github.com/pvelxc/pvelxc/shim/container"
)

// inspection is what inspect prints. Its JSON keys stay.
type inspection struct {
	inventory.Row
	// LXC is the config that the container was started from, LXCDrift what an
	// administrator's tool changed in the copy that it reads.
	LXC      string `json:"lxc"`
	LXCDrift string `json:"lxcDrift,omitempty"`
	// PVE is the conf as pvelxc would write it, PVELive the one in the cluster, PVEDrift
	// their difference; PVEProblem is why there is none to compare.
	PVE        string `json:"pve,omitempty"`
	PVENode    string `json:"pveNode,omitempty"`
	PVELive    string `json:"pveLive,omitempty"`
	PVEDrift   string `json:"pveDrift,omitempty"`
	PVEProblem string `json:"pveProblem,omitempty"`
	// PVECluster and PVETasks are what the API knows, where a token is configured: where the
	// cluster has the container, and what was done to it there.
	PVECluster *clusterState `json:"pveCluster,omitempty"`
	PVETasks   []pveTask     `json:"pveTasks,omitempty"`
	Ignored    []finding     `json:"ignored"`
	Spec       *specs.Spec   `json:"spec"`

	own string // this node's name in the cluster
}

func inspectCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "inspect ID|VMID",
		Short: "Show all about a container: specification, LXC config, Proxmox VE conf, warnings",
		Long: "inspect compares what pvelxc wrote with what is there now: the conf in the cluster, and the LXC config that pct and lxc-info read.\n" +
			"With a token for the API of Proxmox VE it also shows where the cluster has the container and what was done to it there, by whom.\n" +
			"It takes a VMID, an id, the beginning of an id, or NAMESPACE/ID.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "" && output != "json" {
				return fmt.Errorf("inspect -o %.40q: no such format: %w (hint: json)", output, errdefs.ErrInvalidArgument)
			}
			conf, err := config.Load()
			if err != nil {
				return err
			}
			i, err := inspect(cmd.Context(), conf, args[0])
			if i == nil {
				return fmt.Errorf("inspect %.80s: %w", args[0], err)
			}
			if err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "pvelxc: inspect:", err)
			}
			if output == "json" {
				return printJSON(cmd.OutOrStdout(), i)
			}
			return i.print(cmd.OutOrStdout())
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json")
	return c
}

// inspect fails with an inspection where all but the API's part of it is there.
func inspect(ctx context.Context, conf config.Config, name string) (*inspection, error) {
	c, err := inventory.Find(name)
	if err != nil {
		return nil, err
	}
	i := &inspection{}
	if i.Row, err = inventory.One(ctx, c, inventory.Options{Images: inventory.Images(inventory.Address())}); err != nil {
		i.Image = "" // containerd is away; the rest is there
	}
	text, err := os.ReadFile(c.Config())
	if err != nil {
		return nil, err
	}
	i.LXC = string(text)
	i.compareLXC(c)
	i.comparePVE(ctx, conf, c)
	e, err := node.Explain(ctx, conf, container.Config{ID: c.ID, Namespace: c.Namespace, Bundle: c.Bundle})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	shown, err := explain(e)
	if err != nil {
		return nil, err
	}
	i.Ignored, i.Spec = append(shown.Ignored, shown.Refused...), e.Spec
	return i, i.askAPI(ctx, conf.PVE.API, c)
}

// askAPI adds what only the API of Proxmox VE knows. What it did answer is there beside an
// error.
func (i *inspection) askAPI(ctx context.Context, conf config.API, c node.Container) error {
	if c.VMID == 0 || conf.TokenFile == "" {
		return nil
	}
	client, err := apiClient(conf)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, apiPatience)
	defer cancel()
	var stateErr, tasksErr error
	i.PVECluster, stateErr = askCluster(ctx, client, c.VMID)
	i.PVETasks, tasksErr = askTasks(ctx, client, c, i.nodes()...)
	return errors.Join(stateErr, tasksErr)
}

// nodes are those on which something may have been done to the container: its own, and the
// one that has its conf.
func (i *inspection) nodes() []string {
	var nodes []string
	for _, name := range []string{i.own, i.PVENode} {
		if name != "" {
			nodes = append(nodes, name)
		}
	}
	return nodes
}

// compareLXC finds what Proxmox VE or an administrator wrote over the published copy.
func (i *inspection) compareLXC(c node.Container) {
	if c.VMID == 0 {
		return
	}
	path := filepath.Join(c.LXCPath, c.Name, "config")
	live, err := os.ReadFile(path)
	if err != nil {
		i.LXCDrift = err.Error() + "\n"
		return
	}
	i.LXCDrift = udiff.Unified("pvelxc", path, i.LXC, string(live))
}

// comparePVE renders the conf anew and reads the live one.
func (i *inspection) comparePVE(ctx context.Context, conf config.Config, c node.Container) {
	if c.VMID == 0 {
		i.PVEProblem = "not registered"
		if c.Unregistered != "" {
			i.PVEProblem += ": " + c.Unregistered
		}
		return
	}
	problem := func(err error) { i.PVEProblem = err.Error() }
	reader, err := node.Reader(conf)
	if err != nil {
		problem(err)
		return
	}
	i.own = reader.Node
	live, findErr := reader.Find(ctx, c.VMID)
	if c.Guest != nil {
		guest := *c.Guest
		// The size was measured when the root was mounted: it is what it is.
		if findErr == nil {
			value, _ := live.Conf.Get("rootfs")
			if root, err := pveconf.ParseRootfs(value); err == nil && guest.RootfsSize == 0 {
				guest.RootfsSize = root.Size
			}
			// The image of a plain container comes into the note when gc has asked for it.
			if guest.Image == "" && pve.HasImage(live.Conf) {
				guest.Image = i.Image
			}
		}
		wrote, err := reader.Render(guest)
		if err != nil {
			problem(err)
			return
		}
		if c.Alive && i.State != container.StatusCreated.String() {
			wrote.Delete("lock")
		}
		i.PVE = string(wrote.Bytes())
	}
	if findErr != nil {
		problem(findErr)
		return
	}
	i.PVENode, i.PVELive = live.Node, string(live.Conf.Bytes())
	if live.Owner == (pve.Owner{}) {
		i.PVEProblem = "the conf has no marker of pvelxc: it is somebody else's"
	}
	if i.PVE != "" {
		i.PVEDrift = udiff.Unified("pvelxc", fmt.Sprintf("nodes/%s/lxc/%s.conf", live.Node, c.VMID), i.PVE, i.PVELive)
	}
}

func (i *inspection) print(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s  vmid %s  %s  pid %d\n", i.Namespace, i.ID, vmidText(i.Row), i.State, i.Pid)
	for _, row := range [][2]string{
		{"pod", i.Pod}, {"name", i.Name}, {"image", i.Image}, {"rootfs", i.Rootfs}, {"dataset", i.Dataset}, {"bundle", i.Bundle},
		{"lxc", "lxc-info -P " + i.LXCPath + " -n " + i.LXCName}, {"pve", i.PVEProblem}, {"cluster", i.PVECluster.String()}, {"stopped", i.stopped()},
	} {
		if row[1] != "" {
			fmt.Fprintf(&b, "%-8s %s\n", row[0], row[1])
		}
	}
	fmt.Fprintf(&b, "\n── LXC config\n%s\n── LXC config, changed since\n%s\n", i.LXC, orNothing(i.LXCDrift))
	if i.PVE != "" {
		fmt.Fprintf(&b, "── Proxmox VE conf\n%s\n── Proxmox VE conf, changed since\n%s\n", i.PVE, orNothing(i.PVEDrift))
	}
	printTasks(&b, i.PVETasks)
	if err := printFindings(&b, "ignored fields", i.Ignored); err != nil {
		return err
	}
	spec, err := json.MarshalIndent(i.Spec, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the specification: %w", err)
	}
	fmt.Fprintf(&b, "\n── OCI specification (%s)\n%s\n", filepath.Join(i.Bundle, "config.json"), spec)
	_, err = io.WriteString(out, b.String())
	return err
}

// stopped says which administrator ended it.
func (i *inspection) stopped() string {
	if i.State != container.StatusStopped.String() {
		return ""
	}
	if t := stoppedBy(i.PVETasks, false); t != nil {
		return "by " + t.who()
	}
	return ""
}

func orNothing(text string) string {
	if text == "" {
		return "nothing\n"
	}
	return text
}
