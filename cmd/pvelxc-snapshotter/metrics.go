package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/containerd/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

const prefix = "pvelxc_snapshotter_"

// metrics are what Prometheus reads. What operations do is counted as it happens; what there is, is counted when
// Prometheus asks.
type metrics struct {
	registry *prometheus.Registry
	took     *prometheus.HistogramVec
	zfs      *prometheus.HistogramVec
	txgs     prometheus.Counter
}

func newMetrics() *metrics {
	buckets := prometheus.ExponentialBuckets(0.0005, 3, 12)
	m := &metrics{
		registry: prometheus.NewRegistry(),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + "operation_seconds", Help: "Duration of containerd's operations: prepare, commit, apply, ….", Buckets: buckets,
		}, []string{"operation", "result"}),
		zfs: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + "zfs_seconds", Help: "Duration of what was asked of ZFS: clone, snapshot, destroy, ….", Buckets: buckets,
		}, []string{"operation", "result"}),
		txgs: prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "txg_waits_total", Help: "Transaction groups that were waited for."}),
	}
	m.registry.MustRegister(m.took, m.zfs, m.txgs, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func result(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}

// observe is snapshotter.Options.Observe and diff.Options.Observe.
func (m *metrics) observe(op string, took time.Duration, err error) {
	m.took.WithLabelValues(op, result(err)).Observe(took.Seconds())
}

// meter is a zfs.Meter.
func (m *metrics) meter(op string, txgs int, took time.Duration, err error) {
	m.zfs.WithLabelValues(op, result(err)).Observe(took.Seconds())
	m.txgs.Add(float64(txgs))
}

// count publishes the counters of the snapshotter and of its backend.
func (m *metrics) count(s *snapshotter.Stats, b zfs.Backend) {
	execs := func() uint64 { return 0 }
	if cli, ok := b.(interface{ Execs() uint64 }); ok {
		execs = cli.Execs
	}
	for _, c := range []struct {
		name, help string
		load       func() uint64
	}{
		{"warm_hits_total", "Containers that got a waiting clone.", s.WarmHits.Load},
		{"warm_misses_total", "Containers for which a clone had to be made.", s.WarmMisses.Load},
		{"leases_total", "Layers unpacked onto their parent's own dataset.", s.Leases.Load},
		{"shared_total", "Layers that were there already, verified, and were not unpacked again.", s.Shared.Load},
		{"destroyed_total", "Datasets and snapshots destroyed.", s.Destroyed.Load},
		{"busy_total", "Attempts to destroy what was in use.", s.Busy.Load},
		{"execs_total", "Commands of ZFS that were run; none with the ioctl backend.", execs},
	} {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: prefix + c.name, Help: c.help},
			func() float64 { return float64(c.load()) }))
	}
}

// inventory is a prometheus.Collector of what there is.
type inventory struct {
	counts func(context.Context) (snapshotter.Counts, error)
	root   func(context.Context) (zfs.Info, error)
	// pool gives its state.
	pool func() (string, error)
	proc string
}

var (
	gaugeRows    = prometheus.NewDesc(prefix+"snapshots", "Snapshots of containerd's, of any kind.", nil, nil)
	gaugeSets    = prometheus.NewDesc(prefix+"datasets", "ZFS file systems of images and containers.", nil, nil)
	gaugeSpares  = prometheus.NewDesc(prefix+"spare_clones", "Clones that wait for a container.", nil, nil)
	gaugeTombs   = prometheus.NewDesc(prefix+"tombstones", "Datasets and snapshots that wait to be destroyed.", nil, nil)
	gaugeBusy    = prometheus.NewDesc(prefix+"tombstones_busy", "Those of them that were found in use.", nil, nil)
	gaugeHolder  = prometheus.NewDesc(prefix+"busy_holder_info", "Who has something mounted that is to be destroyed; at most 20.", []string{"dataset", "pid", "command"}, nil)
	gaugeState   = prometheus.NewDesc(prefix+"pool_state_info", "The pool's state.", []string{"state"}, nil)
	gaugeHealthy = prometheus.NewDesc(prefix+"pool_healthy", "1 when the pool's state is ONLINE.", nil, nil)
	gaugeFree    = prometheus.NewDesc(prefix+"pool_available_bytes", "What may still be written below the root dataset.", nil, nil)
	gaugeUsed    = prometheus.NewDesc(prefix+"used_bytes", "Space of the root dataset and all below it.", nil, nil)
)

// Describe implements prometheus.Collector.
func (i *inventory) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{gaugeRows, gaugeSets, gaugeSpares, gaugeTombs, gaugeBusy, gaugeHolder, gaugeState, gaugeHealthy, gaugeFree, gaugeUsed} {
		ch <- d
	}
}

const (
	// collectTimeout bounds what Prometheus waits for.
	collectTimeout = 5 * time.Second
	maxHolders     = 20
)

// Collect implements prometheus.Collector. What cannot be had is left out.
func (i *inventory) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	state, err := i.pool()
	if err != nil {
		state = "MISSING"
	}
	gauge(gaugeState, 1, state)
	healthy := 0.0
	if state == "ONLINE" {
		healthy = 1
	}
	gauge(gaugeHealthy, healthy)
	if c, err := i.counts(ctx); err == nil {
		gauge(gaugeRows, float64(c.Snapshots))
		gauge(gaugeSets, float64(c.Datasets))
		gauge(gaugeSpares, float64(c.Spares))
		gauge(gaugeTombs, float64(c.Tombstones))
		gauge(gaugeBusy, float64(len(c.Busy)))
		c.Busy = c.Busy[:min(len(c.Busy), maxHolders)]
		for name, h := range c.Holders(i.proc) {
			gauge(gaugeHolder, 1, name, fmt.Sprint(h.PID), h.Command)
		}
	} else {
		log.G(ctx).WithError(err).Debug("metrics: nothing was counted")
	}
	// The kernel does not answer for a pool that is suspended.
	if state == "SUSPENDED" || state == "MISSING" {
		return
	}
	if root, err := i.root(ctx); err == nil {
		gauge(gaugeFree, float64(root.Available))
		gauge(gaugeUsed, float64(root.Used))
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
