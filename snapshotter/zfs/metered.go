package zfs

import (
	"context"
	"time"
)

// Meter is told of every operation of a metered backend: its name, the number of txgs that it waited for, its duration
// and its result.
type Meter func(op string, txgs int, took time.Duration, err error)

// Metered tells m of what is asked of b. The txgs are those that Backend promises; a failure counts as none.
func Metered(b Backend, m Meter) Backend { return &metered{b, m} }

type metered struct {
	Backend
	m Meter
}

func (b *metered) done(op string, txgs int, start time.Time, err *error) {
	if *err != nil {
		txgs = 0
	}
	b.m(op, txgs, time.Since(start), *err)
}

// Create implements Backend.
func (b *metered) Create(ctx context.Context, dataset string, props map[string]string) (err error) {
	txgs := 1
	if len(props) > 0 {
		txgs = 2
	}
	defer b.done("create", txgs, time.Now(), &err)
	return b.Backend.Create(ctx, dataset, props)
}

// Clone implements Backend.
func (b *metered) Clone(ctx context.Context, snapshot, dataset string) (err error) {
	defer b.done("clone", 1, time.Now(), &err)
	return b.Backend.Clone(ctx, snapshot, dataset)
}

// Snapshot implements Backend.
func (b *metered) Snapshot(ctx context.Context, snapshot string, user map[string]string) (err error) {
	defer b.done("snapshot", 1, time.Now(), &err)
	return b.Backend.Snapshot(ctx, snapshot, user)
}

// Destroy implements Backend.
func (b *metered) Destroy(ctx context.Context, names []string) (failed map[string]error, err error) {
	defer b.done("destroy", (len(names)+DestroyBatch-1)/DestroyBatch, time.Now(), &err)
	return b.Backend.Destroy(ctx, names)
}

// Rollback implements Backend.
func (b *metered) Rollback(ctx context.Context, snapshot string) (err error) {
	defer b.done("rollback", 1, time.Now(), &err)
	return b.Backend.Rollback(ctx, snapshot)
}

// Stat implements Backend.
func (b *metered) Stat(ctx context.Context, name string) (i Info, err error) {
	defer b.done("stat", 0, time.Now(), &err)
	return b.Backend.Stat(ctx, name)
}

// Children implements Backend.
func (b *metered) Children(ctx context.Context, dataset string) (l []Info, err error) {
	defer b.done("children", 0, time.Now(), &err)
	return b.Backend.Children(ctx, dataset)
}

// Snapshots implements Backend.
func (b *metered) Snapshots(ctx context.Context, dataset string) (l []Info, err error) {
	defer b.done("snapshots", 0, time.Now(), &err)
	return b.Backend.Snapshots(ctx, dataset)
}

// SetProperty implements Backend.
func (b *metered) SetProperty(ctx context.Context, dataset, property, value string) (err error) {
	defer b.done("set", 1, time.Now(), &err)
	return b.Backend.SetProperty(ctx, dataset, property, value)
}

// Objects implements Backend.
func (b *metered) Objects(ctx context.Context, name string) (n uint64, err error) {
	defer b.done("objects", 0, time.Now(), &err)
	return b.Backend.Objects(ctx, name)
}

// Sync implements Backend.
func (b *metered) Sync(ctx context.Context, pool string) (err error) {
	defer b.done("sync", 1, time.Now(), &err)
	return b.Backend.Sync(ctx, pool)
}
