package snapshotter

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	digest "github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// state of a row's operation.
type state string

const (
	creating   state = "creating"
	ready      state = "ready"
	committing state = "committing"
)

// snapshotRow is what stands behind one row of the MetaStore.
type snapshotRow struct {
	State   state
	Dataset string
	// Snap is the part behind the @, of a committed snapshot and of a view.
	Snap string `json:",omitempty"`
	// Pending is the Snap of a commit that is under way.
	Pending string `json:",omitempty"`
	// GUID is that of the snapshot, or of an active one's dataset.
	GUID uint64 `json:",omitempty"`
	// Seq orders this among all that was made here; of the snapshot.
	Seq uint64 `json:",omitempty"`
	// Objects counts the inodes at commit, or of an active one those it began with.
	Objects uint64 `json:",omitempty"`
	// Chain is the chain id of a committed layer that was verified here; "" of others.
	Chain digest.Digest `json:",omitempty"`
	// UIDMap and GIDMap are those of the labels of containerd's remap-ids.
	UIDMap, GIDMap string `json:",omitempty"`
}

// zfsName is the dataset, or the snapshot where there is one.
func (r snapshotRow) zfsName() string {
	if r.Snap == "" {
		return r.Dataset
	}
	return r.Dataset + "@" + r.Snap
}

// datasetRow is one file system of ours.
type datasetRow struct {
	State state
	GUID  uint64 `json:",omitempty"`
	Seq   uint64
	// Chain are the ids of the committed snapshots on it, oldest first.
	Chain []string `json:",omitempty"`
	// Lease is the id of the active snapshot that writes to the head; "" when there is none.
	Lease string `json:",omitempty"`
	// Dirty: the head is not what the chain's last snapshot is, and must be rolled back before the next lease.
	Dirty bool `json:",omitempty"`
	// Spare is the id of the committed snapshot of which this is a spare clone.
	Spare string `json:",omitempty"`
	// Quota: a refquota is set, so no layer may follow on this head.
	Quota bool `json:",omitempty"`
}

// tombstone is what is to be destroyed: its key is the ZFS name.
type tombstone struct {
	Seq       uint64
	Attempts  int       `json:",omitempty"`
	NotBefore time.Time `json:",omitzero"`
	Why       string    `json:",omitempty"`
}

var (
	bucketOurs      = []byte("pvelxc")
	bucketSnapshots = []byte("snapshots")
	bucketDatasets  = []byte("datasets")
	bucketTombs     = []byte("tombstones")
	bucketSpares    = []byte("spares")
	bucketDirty     = []byte("dirty")
	keyInstance     = []byte("instance")
)

// rows are our buckets within one transaction.
type rows struct{ ours *bolt.Bucket }

// update runs fn in a read-write transaction of the whole database.
func (s *Snapshotter) update(ctx context.Context, fn func(context.Context, rows) error) error {
	return s.transact(ctx, true, fn)
}

// view runs fn in a read-only transaction.
func (s *Snapshotter) view(ctx context.Context, fn func(context.Context, rows) error) error {
	return s.transact(ctx, false, fn)
}

// transact always ends its transaction: one that leaked would block every other for ever.
func (s *Snapshotter) transact(ctx context.Context, writable bool, fn func(context.Context, rows) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, t, err := s.ms.TransactionContext(ctx, writable)
	if err != nil {
		return fmt.Errorf("open the metadata: %w", err)
	}
	done := false
	defer func() {
		if !done {
			err = errors.Join(err, t.Rollback())
		}
	}()
	tx, ok := t.(*bolt.Tx)
	if !ok {
		return fmt.Errorf("the metadata's transaction is a %T", t)
	}
	var r rows
	if writable {
		if r.ours, err = tx.CreateBucketIfNotExists(bucketOurs); err != nil {
			return fmt.Errorf("write the metadata: %w", err)
		}
		for _, b := range [][]byte{bucketSnapshots, bucketDatasets, bucketTombs, bucketSpares, bucketDirty} {
			if _, err := r.ours.CreateBucketIfNotExists(b); err != nil {
				return fmt.Errorf("write the metadata: %w", err)
			}
		}
	} else if r.ours = tx.Bucket(bucketOurs); r.ours == nil {
		return errors.New("the metadata has no bucket of ours")
	}
	if err := fn(ctx, r); err != nil {
		return err
	}
	if !writable {
		return nil
	}
	done = true
	s.step("write: before")
	if err := t.Commit(); err != nil {
		return fmt.Errorf("write the metadata: %w", err)
	}
	s.step("write: after")
	return nil
}

var _ storage.Transactor = (*bolt.Tx)(nil)

func get[T any](b *bolt.Bucket, key string) (T, bool, error) {
	var v T
	raw := b.Get([]byte(key))
	if raw == nil {
		return v, false, nil
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, false, fmt.Errorf("read the metadata of %s: %w", key, err)
	}
	return v, true, nil
}

func put(b *bolt.Bucket, key string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write the metadata of %s: %w", key, err)
	}
	if err := b.Put([]byte(key), raw); err != nil {
		return fmt.Errorf("write the metadata of %s: %w", key, err)
	}
	return nil
}

func all[T any](b *bolt.Bucket) (map[string]T, error) {
	m := map[string]T{}
	err := b.ForEach(func(k, raw []byte) error {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return fmt.Errorf("read the metadata of %s: %w", k, err)
		}
		m[string(k)] = v
		return nil
	})
	return m, err
}

// nextSeq numbers what is made, over the whole life of the database.
func (r rows) nextSeq() (uint64, error) { return r.ours.NextSequence() }

func (r rows) snapshot(id string) (snapshotRow, bool, error) {
	return get[snapshotRow](r.ours.Bucket(bucketSnapshots), id)
}

func (r rows) putSnapshot(id string, v snapshotRow) error {
	return put(r.ours.Bucket(bucketSnapshots), id, v)
}

func (r rows) deleteSnapshot(id string) error {
	return r.ours.Bucket(bucketSnapshots).Delete([]byte(id))
}

func (r rows) snapshots() (map[string]snapshotRow, error) {
	return all[snapshotRow](r.ours.Bucket(bucketSnapshots))
}

func (r rows) dataset(name string) (datasetRow, bool, error) {
	return get[datasetRow](r.ours.Bucket(bucketDatasets), name)
}

// putDataset keeps the index of dirty heads, too.
func (r rows) putDataset(name string, v datasetRow) error {
	var err error
	if v.Dirty {
		err = r.markDirty(name)
	} else {
		err = r.ours.Bucket(bucketDirty).Delete([]byte(name))
	}
	return errors.Join(err, put(r.ours.Bucket(bucketDatasets), name, v))
}

func (r rows) markDirty(name string) error {
	return r.ours.Bucket(bucketDirty).Put([]byte(name), []byte{1})
}

// dirty are the datasets whose head is not what their last layer is.
func (r rows) dirty() []string {
	var names []string
	c := r.ours.Bucket(bucketDirty).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		names = append(names, string(k))
	}
	return names
}

func (r rows) datasets() (map[string]datasetRow, error) {
	return all[datasetRow](r.ours.Bucket(bucketDatasets))
}

// bury turns a dataset or snapshot into a tombstone; the row of a dataset goes.
func (r rows) bury(name string, seq uint64) error {
	if !strings.Contains(name, "@") {
		row, ok, err := r.dataset(name)
		if err != nil {
			return err
		}
		if ok && row.Spare != "" {
			if err := r.dropSpare(row.Spare, name); err != nil {
				return err
			}
		}
		if err := errors.Join(r.ours.Bucket(bucketDatasets).Delete([]byte(name)), r.ours.Bucket(bucketDirty).Delete([]byte(name))); err != nil {
			return fmt.Errorf("write the metadata of %s: %w", name, err)
		}
	}
	return put(r.ours.Bucket(bucketTombs), name, tombstone{Seq: seq})
}

// buried says whether a dataset, or a snapshot of it, waits to be destroyed.
func (r rows) buried(dataset string) bool {
	tombs := r.ours.Bucket(bucketTombs)
	snaps := []byte(dataset + "@")
	k, _ := tombs.Cursor().Seek(snaps)
	return tombs.Get([]byte(dataset)) != nil || bytes.HasPrefix(k, snaps)
}

func (r rows) tombstones() (map[string]tombstone, error) {
	return all[tombstone](r.ours.Bucket(bucketTombs))
}

func (r rows) putTombstone(name string, v tombstone) error {
	return put(r.ours.Bucket(bucketTombs), name, v)
}

func (r rows) deleteTombstone(name string) error {
	return r.ours.Bucket(bucketTombs).Delete([]byte(name))
}

// tables are all of our rows as they were when they were read.
type tables struct {
	snapshots map[string]snapshotRow
	datasets  map[string]datasetRow
	tombs     map[string]tombstone
}

func (r rows) tables() (t tables, err error) {
	var errs [3]error
	t.snapshots, errs[0] = r.snapshots()
	t.datasets, errs[1] = r.datasets()
	t.tombs, errs[2] = r.tombstones()
	return t, errors.Join(errs[:]...)
}

// The spares' index: id of the committed snapshot, NUL, dataset.
func spareKey(id, dataset string) []byte { return []byte(id + "\x00" + dataset) }

func (r rows) putSpare(id, dataset string) error {
	return r.ours.Bucket(bucketSpares).Put(spareKey(id, dataset), binary.AppendUvarint(nil, 1))
}

func (r rows) dropSpare(id, dataset string) error {
	return r.ours.Bucket(bucketSpares).Delete(spareKey(id, dataset))
}

// spares are the datasets that wait as clones of a committed snapshot; of all with id "".
func (r rows) spares(id string) map[string][]string {
	found := map[string][]string{}
	c := r.ours.Bucket(bucketSpares).Cursor()
	prefix := ""
	if id != "" {
		prefix = id + "\x00"
	}
	for k, _ := c.Seek([]byte(prefix)); k != nil && strings.HasPrefix(string(k), prefix); k, _ = c.Next() {
		of, dataset, _ := strings.Cut(string(k), "\x00")
		found[of] = append(found[of], dataset)
	}
	return found
}

// newestFirst orders names by their seq, the order in which they can be destroyed.
func newestFirst(tombs map[string]tombstone) []string {
	names := make([]string, 0, len(tombs))
	for name := range tombs {
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool {
		a, b := tombs[names[i]], tombs[names[j]]
		if a.Seq != b.Seq {
			return a.Seq > b.Seq
		}
		return names[i] > names[j]
	})
	return names
}

func (d datasetRow) without(id string) []string {
	return slices.DeleteFunc(slices.Clone(d.Chain), func(c string) bool { return c == id })
}

func (d datasetRow) last() string {
	if len(d.Chain) == 0 {
		return ""
	}
	return d.Chain[len(d.Chain)-1]
}
