package main

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pvelxc/pvelxc/internal/garbage"
	"github.com/pvelxc/pvelxc/pve"
)

// writeTextfile writes what a reconciliation found, for node_exporter: whole or not at
// all. A run that failed is told too, with what it could count.
func writeTextfile(path string, report gcReport, failure error) error {
	r := report.confs
	registry := prometheus.NewRegistry()
	set := func(name, help string, value float64) {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "pvelxc", Name: name, Help: help})
		registry.MustRegister(g)
		g.Set(value)
	}
	success := 1.0
	if failure != nil {
		success = 0
	}
	set("registration_containers", "Containers of this node that are registered or were to be.", float64(r.Tasks))
	set("registration_unregistered_containers", "Containers that started unregistered, because the cluster could not be asked.", float64(r.Unregistered))
	set("registration_confs", "Confs with this node's marker.", float64(r.Confs))
	set("reconcile_success", "Whether the last reconciliation did all that it had to.", success)
	set("reconcile_last_run_timestamp_seconds", "When the last reconciliation ended.", float64(time.Now().Unix()))
	changes := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "pvelxc", Name: "reconcile_changes",
		Help: "What the last reconciliation did or found, by action."}, []string{"action"})
	registry.MustRegister(changes)
	for _, action := range pve.Actions {
		changes.WithLabelValues(string(action))
	}
	for _, c := range r.Changes {
		changes.WithLabelValues(string(c.Action)).Inc()
	}
	leftovers := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "pvelxc", Name: "gc_leftovers",
		Help: "What nothing used any more when the last run ended, by kind: found, and not removed."}, []string{"kind"})
	registry.MustRegister(leftovers)
	for _, kind := range garbage.Kinds {
		leftovers.WithLabelValues(kind)
	}
	for _, i := range report.items {
		if !report.applied || i.Kept || i.Err != nil {
			leftovers.WithLabelValues(i.Kind).Inc()
		}
	}
	if err := prometheus.WriteToTextfile(path, registry); err != nil {
		return fmt.Errorf("write metrics: %w", err)
	}
	return nil
}
