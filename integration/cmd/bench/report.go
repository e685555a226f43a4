package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// entry is one element of bench.json. A runtime that was not measured has null.
type entry struct {
	Name      string   `json:"name"`
	Unit      string   `json:"unit"`
	Ours      *float64 `json:"ours"`
	Runc      *float64 `json:"runc"`
	Crun      *float64 `json:"crun"`
	RatioRunc *float64 `json:"ratio_runc"`
	RatioCrun *float64 `json:"ratio_crun"`
}

// report prints the table and writes the JSON.
func report(results []result, path string) error {
	entries := make([]entry, len(results))
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tunit\tours\trunc\tcrun\tours/runc\tours/crun\t")
	for i, r := range results {
		e := entry{Name: r.name, Unit: r.unit, Ours: medianOf(r, "ours"), Runc: medianOf(r, "runc"), Crun: medianOf(r, "crun")}
		e.RatioRunc, e.RatioCrun = ratio(e.Ours, e.Runc), ratio(e.Ours, e.Crun)
		entries[i] = e
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", e.Name, e.Unit,
			show("%.1f", e.Ours), show("%.1f", e.Runc), show("%.1f", e.Crun), show("%.2f", e.RatioRunc), show("%.2f", e.RatioCrun))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if path == "" {
		return nil
	}
	data, err := json.MarshalIndent(entries, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

func show(format string, v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf(format, *v)
}

func medianOf(r result, subject string) *float64 {
	values := r.values[subject]
	if len(values) == 0 {
		return nil
	}
	m := median(values)
	return &m
}

func ratio(ours, theirs *float64) *float64 {
	if ours == nil || theirs == nil || *theirs == 0 {
		return nil
	}
	q := *ours / *theirs
	return &q
}

// median does not change values.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}
