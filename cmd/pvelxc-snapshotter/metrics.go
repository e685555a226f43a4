package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pvelxc/pvelxc/snapshotter"
)

// metrics are what Prometheus reads.
type metrics struct {
	registry *prometheus.Registry
	took     *prometheus.HistogramVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pvelxc_snapshotter_operation_seconds", Help: "Duration of the snapshotter's operations.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 3, 12),
		}, []string{"operation", "result"}),
	}
	m.registry.MustRegister(m.took)
	return m
}

// observe is snapshotter.Options.Observe.
func (m *metrics) observe(op string, took time.Duration, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.took.WithLabelValues(op, result).Observe(took.Seconds())
}

// count publishes the snapshotter's own counters.
func (m *metrics) count(s *snapshotter.Stats) {
	for _, c := range []struct {
		name, help string
		load       func() uint64
	}{
		{"warm_hits_total", "Containers that got a waiting clone.", s.WarmHits.Load},
		{"warm_misses_total", "Containers for which a clone had to be made.", s.WarmMisses.Load},
		{"leases_total", "Layers unpacked onto their parent's own dataset.", s.Leases.Load},
		{"destroyed_total", "Datasets and snapshots destroyed.", s.Destroyed.Load},
		{"busy_total", "Attempts to destroy what was in use.", s.Busy.Load},
	} {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "pvelxc", Subsystem: "snapshotter", Name: c.name, Help: c.help},
			func() float64 { return float64(c.load()) }))
	}
}

// serve answers /metrics on a TCP address until ctx ends.
func (m *metrics) serve(ctx context.Context, address string) (stop func() error, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	return func() error {
		err := server.Close()
		if e := <-done; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
		return err
	}, nil
}
