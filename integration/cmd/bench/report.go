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
	OursShim  *float64 `json:"ours_shim,omitempty"` // with sandboxes that the shim holds
	Runc      *float64 `json:"runc"`
	Crun      *float64 `json:"crun"`
	RatioRunc *float64 `json:"ratio_runc"`
	RatioShim *float64 `json:"ratio_shim,omitempty"` // of ours_shim to runc
	RatioCrun *float64 `json:"ratio_crun"`
}

// ofPods is the subject that only pods have.
const ofPods = "ours-shim"

// report prints the table and writes the JSON.
func report(results []result, path string) error {
	entries := make([]entry, len(results))
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	pods := slices.ContainsFunc(results, func(r result) bool { return r.values[ofPods] != nil })
	other := "crun"
	if pods {
		other = ofPods
	}
	fmt.Fprintf(w, "\tunit\tours\trunc\t%[1]s\tours/runc\t%[2]s\t\n", other, map[bool]string{true: "ours-shim/runc", false: "ours/crun"}[pods])
	for i, r := range results {
		e := entry{Name: r.name, Unit: r.unit, Ours: medianOf(r, "ours"), OursShim: medianOf(r, ofPods), Runc: medianOf(r, "runc"), Crun: medianOf(r, "crun")}
		e.RatioRunc, e.RatioShim, e.RatioCrun = ratio(e.Ours, e.Runc), ratio(e.OursShim, e.Runc), ratio(e.Ours, e.Crun)
		entries[i] = e
		third, thirdRatio := e.Crun, e.RatioCrun
		if pods {
			third, thirdRatio = e.OursShim, e.RatioShim
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", e.Name, e.Unit,
			show("%.1f", e.Ours), show("%.1f", e.Runc), show("%.1f", third), show("%.2f", e.RatioRunc), show("%.2f", thirdRatio))
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
