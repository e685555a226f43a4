// Package zfs is the part of OpenZFS that a snapshotter needs, behind one small interface.
//
//	snapshotter ──► Backend ◄── ioctl   pure Go on /dev/zfs: no process for an operation
//	                        ◄── cli     the zfs command, for versions that ioctl does not know
//	                        ◄── fake    in memory with real directories, for tests on any machine
//
// probe chooses one; conformance is the test that the three of them pass.
//
// An operation that changes a pool waits for its transaction group (txg): tens to hundreds of milliseconds
// that parallel callers share. So nobody holds a lock across one, and the interface says which operation
// costs how many. An operation cannot be taken back once the kernel has it: a context is honoured before
// that moment, and a caller who must not wait runs the operation in a goroutine of its own.
package zfs
