// Package diff is containerd's Diff service for this snapshotter's trees: a layer's blob onto a snapshot, and the
// difference of two snapshots into a blob.
//
//	containerd ──Apply──► content store ─► read ahead ─► decompress ─┬─► hash
//	                                                                 └─► tar ─► layer.Apply ─► detached mount
//	containerd ──Diff───► detached mounts ─► layer.Compare ─┬─► hash
//	                                                        └─► compress ─► content store
//
// The stages run at the same time. Blobs are read and written over containerd's own API, in the namespace of the request.
// Mounts that are not ours are answered with ErrNotImplemented, and containerd goes on to its next differ.
package diff
