package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/pve"
)

// Task is an action of an admin's, or of PVE's own, on a guest.
type Task struct {
	// UPID names it in the cluster.
	UPID string
	// Type is what was done: vzstart, vzstop, vzshutdown, vzreboot, vzdump.
	Type string
	// User did it.
	User string
	// Start and End are in whole seconds; End is zero while it runs.
	Start, End time.Time
	// Status is "OK" or PVE's message; empty while it runs.
	Status string
}

// upidPattern is UPID:node:pid:pstart:starttime:type:id:user: (pve-common).
var upidPattern = regexp.MustCompile(`^UPID:([A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?):[0-9A-F]{8}:[0-9A-F]{8,9}:[0-9A-F]{8}:[^:\s/]+:[^:\s/]*:[^:\s/]+:$`)

var nodePattern = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?$`)

// Tasks lists what was done to a guest on a node since a time, latest first, at
// most fifty.
func (c *Client) Tasks(ctx context.Context, node string, vmid pve.VMID, since time.Time) ([]Task, error) {
	if !nodePattern.MatchString(node) {
		return nil, fmt.Errorf("node name %q is not a host name: %w", node, errdefs.ErrInvalidArgument)
	}
	var answer []struct {
		UPID   string `json:"upid"`
		Type   string `json:"type"`
		User   string `json:"user"`
		Start  number `json:"starttime"`
		End    number `json:"endtime"`
		Status string `json:"status"`
	}
	parameters := url.Values{"vmid": {vmid.String()}, "since": {strconv.FormatInt(max(since.Unix(), 0), 10)}, "source": {"all"}, "limit": {"50"}}
	if err := c.call(ctx, http.MethodGet, "/nodes/"+node+"/tasks", parameters, &answer); err != nil {
		return nil, fmt.Errorf("list the tasks of ct %d: %w", vmid, err)
	}
	tasks := make([]Task, 0, len(answer))
	for _, t := range answer {
		task := Task{UPID: t.UPID, Type: t.Type, User: t.User, Start: time.Unix(int64(t.Start), 0), Status: t.Status}
		if t.End > 0 {
			task.End = time.Unix(int64(t.End), 0)
		}
		tasks = append(tasks, task)
	}
	return tasks, nil
}

// TaskLog returns the lines that a task printed, the first thousand. The lines are whatever
// the task's programs wrote.
func (c *Client) TaskLog(ctx context.Context, upid string) ([]string, error) {
	m := upidPattern.FindStringSubmatch(upid)
	if m == nil {
		return nil, fmt.Errorf("task %q is not a UPID: %w", upid, errdefs.ErrInvalidArgument)
	}
	var answer []struct {
		Line number `json:"n"`
		Text string `json:"t"`
	}
	if err := c.call(ctx, http.MethodGet, "/nodes/"+m[1]+"/tasks/"+url.PathEscape(upid)+"/log", url.Values{"start": {"0"}, "limit": {"1000"}}, &answer); err != nil {
		return nil, fmt.Errorf("read the log of task %s: %w", upid, err)
	}
	lines := make([]string, len(answer))
	for i, l := range answer {
		lines[i] = l.Text
	}
	return lines, nil
}
