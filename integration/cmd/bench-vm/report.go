package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
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

// goals are marks on the way: at most limit, of the row's value or of its ratio to a peer's.
var goals = []struct {
	name, peer string
	limit      float64
}{
	{"zfs execs per op", "", 0},
	{"txg waits per unpacked layer", "", 1.2},
	{"txg waits: Prepare warm", "", 0}, {"txg waits: Prepare cold", "", 1}, {"txg waits: View", "", 0}, {"txg waits: Commit", "", 1}, {"txg waits: Remove", "", 0},
	{"Prepare cold and Commit", peerZFS, 1.0 / 8},
	{"Prepare warm", overlayExt4, 1.5}, {"View", overlayExt4, 1.5}, {"Remove", overlayExt4, 1.5},
	{"Usage at 10k files", overlayExt4, 1.0 / 10},
	{"unpack 13,000 entries", peerZFS, 1 / 1.8}, {"unpack 13,000 entries", overlayZFS, 1},
	{"2,000 containers of a 10-layer image: datasets", "", 2005},
	{"2,000 containers of a 10-layer image: op p50 to that at 10", "", 1.5},
	{"destroy 1,000", "", 20},
}

// judged says of a row whether it meets its goals.
func judged(r row) string {
	var l []string
	for _, g := range goals {
		if g.name != r.Name {
			continue
		}
		v, of := r.Ours, ""
		if g.peer != "" {
			v, of = r.Ratios[g.peer], " of "+g.peer
		}
		word := "met"
		if v > g.limit {
			word = "MISSED"
		}
		l = append(l, fmt.Sprintf("at most %.3g%s: %s", g.limit, of, word))
	}
	return strings.Join(l, "; ")
}

// thousands writes a number as the rows' names have it.
func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return thousands(n/1000) + fmt.Sprintf(",%03d", n%1000)
}

// report prints the table and writes the JSON.
func report(rows []row, path string) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		var peers []string
		for _, name := range slices.Sorted(mapKeys(r.Peers)) {
			peers = append(peers, fmt.Sprintf("%s %.4g (ours/it %.3f)", name, r.Peers[name], r.Ratios[name]))
		}
		fmt.Fprintf(w, "%s\t%s\t%.4g\t%s\t%s\n", r.Name, r.Unit, r.Ours, judged(r), strings.Join(peers, ", "))
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
