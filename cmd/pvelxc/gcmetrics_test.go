package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pvelxc/pvelxc/internal/garbage"
	"github.com/pvelxc/pvelxc/pve"
)

func TestTextfile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pvelxc.prom")
	report := gcReport{
		applied: true,
		confs:   pve.Report{Confs: 5, Tasks: 7, Unregistered: 2, Changes: []pve.Change{{Action: pve.Removed}, {Action: pve.Removed}, {Action: pve.Conflict}}},
		items:   []garbage.Item{{Kind: "dataset"}, {Kind: "dataset", Kept: true}, {Kind: "cgroup", Err: errors.New("busy")}},
	}
	for failure, success := range map[error]string{nil: "1", errors.New("no quorum"): "0"} {
		if err := writeTextfile(path, report, failure); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			"pvelxc_registration_containers 7", "pvelxc_registration_unregistered_containers 2", "pvelxc_registration_confs 5",
			`pvelxc_reconcile_changes{action="removed"} 2`, `pvelxc_reconcile_changes{action="conflict"} 1`, `pvelxc_reconcile_changes{action="orphan"} 0`,
			`pvelxc_gc_leftovers{kind="dataset"} 1`, `pvelxc_gc_leftovers{kind="cgroup"} 1`, `pvelxc_gc_leftovers{kind="container"} 0`,
			"pvelxc_reconcile_success " + success, "pvelxc_reconcile_last_run_timestamp_seconds ",
		} {
			if !strings.Contains(string(data), "\n"+want) {
				t.Errorf("no %q in\n%s", want, data)
			}
		}
		alerts, err := os.ReadFile("../../dist/prometheus/pvelxc-gc.yml")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`pvelxc_[a-z_]+`).FindAllString(string(alerts), -1) {
			if !strings.Contains(string(data), "\n"+name) {
				t.Errorf("an alert is on %s, which is not there", name)
			}
		}
	}
	if err := writeTextfile(filepath.Join(t.TempDir(), "none", "pvelxc.prom"), report, nil); err == nil {
		t.Error("written into a directory that is not there")
	}
}
