package pve_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/pvelxc/pvelxc/pve"
)

func machines(b *testing.B, f func(b *testing.B, m *machine)) {
	b.Run("local", func(b *testing.B) { f(b, local(b)) })
	b.Run("pmxcfs", func(b *testing.B) { m, _ := cluster(b); f(b, m) })
}

// BenchmarkReserve is what a starting container waits for.
func BenchmarkReserve(b *testing.B) {
	machines(b, func(b *testing.B, m *machine) {
		for b.Loop() {
			reg, err := m.Reserve(context.Background(), guest("c1"))
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := m.Unregister(context.Background(), reg); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}

// BenchmarkLife is everything that one container costs.
func BenchmarkLife(b *testing.B) {
	machines(b, func(b *testing.B, m *machine) {
		for b.Loop() {
			reg, err := m.Reserve(context.Background(), guest("c1"))
			for _, do := range []func(context.Context, pve.Registration) error{m.SetRunning, m.SetStopped, m.Unregister} {
				if err == nil {
					err = do(context.Background(), reg)
				}
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkThousand lists and reconciles a node of a thousand containers.
func BenchmarkThousand(b *testing.B) {
	machines(b, func(b *testing.B, m *machine) {
		var list []pve.Task
		for i := range 1000 {
			list = append(list, task(m.reserve(fmt.Sprint("c", i)), false))
		}
		b.Run("list", func(b *testing.B) {
			for b.Loop() {
				if entries, err := m.List(context.Background(), true); err != nil || len(entries) != len(list) {
					b.Fatal(len(entries), err)
				}
			}
		})
		b.Run("reconcile", func(b *testing.B) {
			for b.Loop() {
				if report, err := m.Reconcile(context.Background(), tasks(list...)); err != nil || report.Confs != len(list) || len(report.Changes) > 0 {
					b.Fatal(report, err)
				}
			}
		})
	})
}
