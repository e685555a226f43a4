package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// row is one element of bench-vm.json. Ratios are ours to the peer's.
type row struct {
	Name   string             `json:"name"`
	Unit   string             `json:"unit"`
	Ours   float64            `json:"ours"`
	Peers  map[string]float64 `json:"peers"`
	Ratios map[string]float64 `json:"ratios"`
}

// newRow takes the values of all, ours among them.
func newRow(name, unit string, values map[string]float64) row {
	r := row{Name: name, Unit: unit, Ours: values[ours], Peers: map[string]float64{}, Ratios: map[string]float64{}}
	for peer, v := range values {
		if peer == ours {
			continue
		}
		r.Peers[peer] = v
		if v != 0 {
			r.Ratios[peer] = r.Ours / v
		}
	}
	return r
}

// report prints the table and writes the JSON.
func report(rows []row, path string) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		var peers []string
		for _, name := range slices.Sorted(mapKeys(r.Peers)) {
			peers = append(peers, fmt.Sprintf("%s %.4g (ours/it %.3f)", name, r.Peers[name], r.Ratios[name]))
		}
		fmt.Fprintf(w, "%s\t%s\t%.4g\t%s\n", r.Name, r.Unit, r.Ours, strings.Join(peers, ", "))
	}
	if err := w.Flush(); err != nil || path == "" {
		return err
	}
	data, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return 0
	}
	return v[len(v)/2]
}
