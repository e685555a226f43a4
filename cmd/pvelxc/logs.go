package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/internal/inventory"
	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/internal/timeline"
)

// k3sLog is where k3s keeps the log of its containerd.
const k3sLog = "/var/lib/rancher/k3s/agent/containerd/containerd.log"

func logsCommand() *cobra.Command {
	var files []string
	var asJSON bool
	c := &cobra.Command{
		Use:   "logs ID|VMID",
		Short: "Show what the shim, the monitor and liblxc logged of a container, by time",
		Long: "logs joins the shim's lines in containerd's journal, liblxc's log, the exit status that the monitor left, and, where a token for\n" +
			"the API is configured, what administrators did in Proxmox VE. It is not the container's own output: that is kubectl logs or\n" +
			"nerdctl logs.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := inventory.Find(args[0])
			if err != nil {
				return fmt.Errorf("logs: %w", err)
			}
			entries, err := collect(cmd.Context(), c, files)
			done, taskErr := taskEntries(cmd.Context(), c)
			entries = append(entries, done...)
			if err := errors.Join(err, taskErr); err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "pvelxc: logs:", err)
			}
			timeline.Sort(entries)
			if asJSON {
				return printJSON(cmd.OutOrStdout(), append([]timeline.Entry{}, entries...))
			}
			for _, e := range entries {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %-7s %-7s %s\n", e.Time.Format("2006-01-02T15:04:05.000Z"), e.Source, e.Level, printable(e.Message)); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringArrayVar(&files, "file", nil, "read containerd's log from this file too")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// collect reads every source; what cannot be read is said beside what can.
func collect(ctx context.Context, c node.Container, files []string) ([]timeline.Entry, error) {
	var all []timeline.Entry
	var errs []error
	add := func(entries []timeline.Entry, err error) {
		all = append(all, entries...)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if f, err := os.Open(c.Log()); err == nil {
		add(timeline.LXC(f))
		f.Close()
	} else {
		add(nil, err)
	}
	if info, err := os.Stat(c.Exit()); err == nil {
		status, err := os.ReadFile(c.Exit())
		add([]timeline.Entry{{Time: info.ModTime().UTC(), Source: "monitor", Level: "info", Message: "exit status " + strings.TrimSpace(string(status))}}, err)
	}
	for _, file := range append(files, k3sLog) {
		f, err := os.Open(file)
		if err != nil {
			if file != k3sLog {
				errs = append(errs, err)
			}
			continue
		}
		add(timeline.Shim(f, c.Namespace, c.ID))
		f.Close()
	}
	if len(files) == 0 {
		add(journal(ctx, c))
	}
	return all, errors.Join(errs...)
}

// taskEntries are what administrators did to the container in Proxmox VE; none without a token
// for its API.
func taskEntries(ctx context.Context, c node.Container) ([]timeline.Entry, error) {
	conf, err := config.Load()
	if err != nil || conf.PVE.API.TokenFile == "" || c.VMID == 0 {
		return nil, err
	}
	reader, err := node.Reader(conf)
	if err != nil {
		return nil, err
	}
	client, err := apiClient(conf.PVE.API)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, apiPatience)
	defer cancel()
	tasks, err := askTasks(ctx, client, c, reader.Node)
	var out []timeline.Entry
	for _, t := range tasks {
		out = append(out, timeline.Entry{Time: t.Start, Source: "pve", Level: "info", Message: fmt.Sprintf("%s by %s, task %s", t.Type, t.User, t.UPID)})
		for _, line := range t.Log {
			out = append(out, timeline.Entry{Time: t.Start, Source: "pve", Level: "info", Message: line})
		}
		if !t.End.IsZero() {
			out = append(out, timeline.Entry{Time: t.End, Source: "pve", Level: "info", Message: fmt.Sprintf("%s ended: %s", t.Type, t.Status)})
		}
	}
	return out, err
}

// journalTimeout bounds the search of a journal that may be gigabytes.
const journalTimeout = 30 * time.Second

func journal(ctx context.Context, c node.Container) ([]timeline.Entry, error) {
	path, err := exec.LookPath("journalctl")
	if err != nil {
		return nil, nil // a machine without systemd has --file
	}
	ctx, cancel := context.WithTimeout(ctx, journalTimeout)
	defer cancel()
	args := []string{"--output=json", "--no-pager", "--quiet", "--unit=containerd.service", "--unit=k3s.service", "--unit=k3s-agent.service"}
	if info, err := os.Stat(c.Home); err == nil {
		args = append(args, "--since=@"+fmt.Sprint(info.ModTime().Add(-24*time.Hour).Unix()))
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("journalctl: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return timeline.Journal(bytes.NewReader(out), c.Namespace, c.ID)
}

// printable keeps what containers wrote from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
