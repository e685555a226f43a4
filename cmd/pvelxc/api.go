package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/api"
)

// apiPatience bounds all that one command asks Proxmox VE's API for its user, who would
// rather have the rest.
const apiPatience = 5 * time.Second

// apiClient speaks to the API of the configuration. It fails with ErrFailedPrecondition where
// no token is configured.
func apiClient(conf config.API) (*api.Client, error) {
	if conf.TokenFile == "" {
		return nil, fmt.Errorf("no API token is configured: %w (hint: set pve.api.token_file)", errdefs.ErrFailedPrecondition)
	}
	return api.New(api.Client{URL: conf.URL, TokenFile: conf.TokenFile, CAFile: conf.CAFile, Fingerprint: conf.Fingerprint})
}

// clusterState is what the cluster says of a guest. Its JSON keys stay.
type clusterState struct {
	Node   string `json:"node"`
	Status string `json:"status"`
	Pool   string `json:"pool,omitempty"`
}

// String is empty for what nobody knows.
func (s *clusterState) String() string {
	switch {
	case s == nil:
		return ""
	case s.Pool == "":
		return printable(fmt.Sprintf("%s on node %s", s.Status, s.Node))
	}
	return printable(fmt.Sprintf("%s on node %s, in pool %s", s.Status, s.Node, s.Pool))
}

// pveTask is what an administrator, or Proxmox VE itself, did to a guest. Its JSON keys
// stay.
type pveTask struct {
	UPID  string    `json:"upid"`
	Type  string    `json:"type"`
	User  string    `json:"user"`
	Start time.Time `json:"start"`
	// End is zero, and Status empty, while it runs.
	End    time.Time `json:"end,omitzero"`
	Status string    `json:"status,omitempty"`
	// Log are the last lines that it printed, of the latest tasks.
	Log []string `json:"log,omitempty"`
}

// askCluster asks where a guest is and how it is. It returns nil where the token may not
// see it.
func askCluster(ctx context.Context, client *api.Client, vmid pve.VMID) (*clusterState, error) {
	guests, err := client.Guests(ctx)
	for _, g := range guests {
		if g.VMID == vmid {
			return &clusterState{Node: g.Node, Status: g.Status, Pool: g.Pool}, nil
		}
	}
	return nil, err
}

// askTasks lists what was done to a container since it was made, on any of the nodes, latest
// first: earlier tasks are those of another with its VMID. What could be read comes beside an
// error.
func askTasks(ctx context.Context, client *api.Client, c node.Container, nodes ...string) ([]pveTask, error) {
	const withLog, lines = 5, 20
	made, err := os.Stat(c.Config())
	if err != nil {
		return nil, err
	}
	var all []pveTask
	var errs []error
	slices.Sort(nodes)
	for _, name := range slices.Compact(nodes) {
		tasks, err := client.Tasks(ctx, name, c.VMID, made.ModTime())
		errs = append(errs, err)
		all = append(all, pveTasks(tasks)...)
	}
	slices.SortStableFunc(all, func(a, b pveTask) int { return b.Start.Compare(a.Start) })
	for i := range min(withLog, len(all)) {
		log, err := client.TaskLog(ctx, all[i].UPID)
		errs = append(errs, err)
		all[i].Log = log[max(0, len(log)-lines):]
	}
	return all, errors.Join(errs...)
}

func pveTasks(tasks []api.Task) []pveTask {
	out := make([]pveTask, len(tasks))
	for i, t := range tasks {
		out[i] = pveTask{UPID: t.UPID, Type: t.Type, User: t.User, Start: t.Start.UTC(), Status: t.Status}
		if !t.End.IsZero() {
			out[i].End = t.End.UTC()
		}
	}
	return out
}

func printTasks(b *strings.Builder, tasks []pveTask) {
	if len(tasks) == 0 {
		return
	}
	fmt.Fprintln(b, "── Tasks of Proxmox VE")
	for _, t := range tasks {
		status := t.Status
		if status == "" {
			status = "running"
		}
		fmt.Fprintln(b, printable(fmt.Sprintf("%s  %s  %s  %s  %s", t.Start.Format(time.RFC3339), t.Type, t.User, status, t.UPID)))
		for _, line := range t.Log {
			fmt.Fprintln(b, "    "+printable(line))
		}
	}
}

// stops are the types of tasks whose success is the end of a guest (pve-container, pve-ha-manager).
var stops = []string{"vzstop", "vzshutdown", "vzreboot", "hastop"}

// stoppedBy is the task that ended a guest which is stopped; nil for none: it ended by
// itself, or by its pod. Right after the end the task may still be at it.
func stoppedBy(tasks []pveTask, justNow bool) *pveTask {
	for i, t := range tasks {
		if slices.Contains(stops, t.Type) && (t.Status == "OK" || justNow && t.End.IsZero()) {
			return &tasks[i]
		}
	}
	return nil
}

// who is for people.
func (t pveTask) who() string {
	return printable(fmt.Sprintf("%s, %s, task %s", t.User, t.Type, t.UPID))
}
