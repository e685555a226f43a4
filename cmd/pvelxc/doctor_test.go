package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/internal/doctor"
	"github.com/pvelxc/pvelxc/internal/host"
)

func TestDoctorStatus(t *testing.T) {
	for want, statuses := range map[int][]doctor.Status{
		0: {doctor.OK, doctor.Skipped}, 1: {doctor.OK, doctor.Warning, doctor.Skipped}, 2: {doctor.Failure, doctor.Warning, doctor.OK},
	} {
		var results []doctor.Result
		for _, s := range statuses {
			results = append(results, doctor.Result{Name: "x", Status: s})
		}
		var got exitStatus
		if err := statusOf(results); errors.As(err, &got) != (want > 0) || int(got) != want {
			t.Errorf("%v: %v, want status %d", statuses, err, want)
		}
	}
}

func command() (*cobra.Command, *bytes.Buffer, *bytes.Buffer) {
	var out, errs bytes.Buffer
	c := &cobra.Command{}
	c.Flags().BoolP("quiet", "q", false, "")
	c.SetOut(&out)
	c.SetErr(&errs)
	c.SetContext(context.Background())
	return c, &out, &errs
}

// What is printed names each check with its mark, what to type, and how many there are of each.
func TestDoctorPrints(t *testing.T) {
	results := []doctor.Result{
		{Name: "quorum", Status: doctor.Failure, Message: "cluster not quorate (1/3 votes)", Fix: "bring nodes back"},
		{Name: "kernel", Status: doctor.OK, Message: "Linux 6\x1b[2J"},
		{Name: "lxcfs", Status: doctor.Warning, Message: "not mounted", Fix: "systemctl"},
		{Name: "criu", Status: doctor.Skipped, Message: "no CRIU"},
	}
	c, out, _ := command()
	if err := printResults(c, results); err != nil {
		t.Fatal(err)
	}
	want := "✗ quorum                cluster not quorate (1/3 votes)\n  fix: bring nodes back\n✓ kernel                Linux 6?[2J\n" +
		"! lxcfs                 not mounted\n  fix: systemctl\n– criu                  no CRIU\n4 checks: 1 ok, 1 warnings, 1 failures, 1 not for this node\n"
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out, want)
	}
	c, out, _ = command()
	if err := c.Flags().Set("quiet", "true"); err != nil {
		t.Fatal(err)
	}
	if err := printResults(c, results); err != nil || strings.Contains(out.String(), "kernel") || strings.Contains(out.String(), "checks:") || !strings.Contains(out.String(), "quorum") {
		t.Errorf("quiet: %v\n%s", err, out)
	}
	var parsed []struct{ Name, Status, Message, Fix string }
	var text bytes.Buffer
	if err := errors.Join(printJSON(&text, results), json.Unmarshal(text.Bytes(), &parsed)); err != nil {
		t.Fatal(err)
	}
	if len(parsed) != 4 || parsed[0].Status != "failure" || parsed[2].Status != "warning" || parsed[3].Status != "skipped" || parsed[0].Fix != "bring nodes back" {
		t.Errorf("JSON %+v", parsed)
	}
}

// --fix mends what can be mended, asks again, tells what it did, and what it could not do.
func TestDoctorFix(t *testing.T) {
	machine := &host.Host{Root: t.TempDir(), Path: "/nonexistent"}
	if err := os.MkdirAll(machine.At("/etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	ask := func() []doctor.Result {
		results, err := doctor.Run(t.Context(), doctor.New(t.Context(), machine, config.Default()), "idmap-subuid", "kernel")
		if err != nil {
			t.Fatal(err)
		}
		return results
	}
	c, _, errs := command()
	results := mend(c, machine, config.Default(), ask())
	if results[0].Status != doctor.OK || !strings.Contains(errs.String(), "fixed idmap-subuid: echo root:100000:65536") {
		t.Errorf("mended: %+v, told %q", results[0], errs)
	}
	if results[1].Status != doctor.Failure {
		t.Errorf("what cannot be mended: %+v", results[1])
	}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		if text, err := machine.Read(file); err != nil || text != "root:100000:65536\n" {
			t.Errorf("%s: %q, %v", file, text, err)
		}
	}
	// Two directories in the place of files cannot be written to.
	machine = &host.Host{Root: t.TempDir(), Path: "/nonexistent"}
	if err := errors.Join(os.MkdirAll(filepath.Join(machine.At("/etc/subuid"), "x"), 0o755), os.MkdirAll(filepath.Join(machine.At("/etc/subgid"), "x"), 0o755)); err != nil {
		t.Fatal(err)
	}
	c, _, errs = command()
	results = mend(c, machine, config.Default(), ask())
	if results[0].Status != doctor.Warning || !strings.Contains(results[0].Message, "; --fix failed: ") || errs.Len() > 0 {
		t.Errorf("what could not be mended: %+v, told %q", results[0], errs)
	}
	if got := fmt.Sprint(statusOf(results)); got != "exit status 2" {
		t.Errorf("status %s", got)
	}
}
