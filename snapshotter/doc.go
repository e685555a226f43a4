// Package snapshotter is containerd's Snapshotter on ZFS.
//
// An image's layers are a series of snapshots on one dataset, its linear chain; a container is a clone:
//
//	root/s/abc  @l1 @l2 @l3      head ── leased to the layer that is being unpacked
//	                  │    └──── clone root/s/def: a container
//	                  └───────── clone root/s/ghi @m3: a branch, another image's third layer
//	view = @l2 mounted read-only: no dataset at all
//
// Names and parents are rows of containerd's storage.MetaStore; which dataset and snapshot stand behind a row is in
// buckets of ours in the same database, so that both change in one transaction. An operation is
//
//	intent in the database  →  ZFS, no lock and no transaction held  →  finish in the database
//
// and whoever is killed in between leaves an intent that Open undoes (reconcile.go). Remove only turns rows into
// tombstones; a worker destroys them in batches, newest first, as clones go before their origins.
//
//	state of a row       creating ──► ready ──► committing ──► ready (committed)
//	                         └── error: gone         └── error: ready
//
// What a database transaction decides is never decided again outside of one: leases, spares and tombstones are
// taken there, and the states creating and committing keep others away without a lock.
package snapshotter
