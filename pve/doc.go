// Package pve registers containers with Proxmox VE: it gives each one a VMID and
// a configuration file under /etc/pve, so that the web UI and pct list it, show its
// usage, stop and enter it, and can neither start, destroy nor overwrite it.
//
// # Life of a registration
//
//	Reserve     one exclusive create of nodes/<node>/lxc/<vmid>.conf. This is the
//	            reservation of the VMID in the whole cluster, and all that a starting
//	            container waits for. The content follows in one write, with
//	            lock: create; until then an intent on this node's disk has it.
//	SetRunning  removes the lock, so that Stop and Shutdown work.
//	Update      follows changed limits.
//	SetStopped  puts the lock back: nothing in the UI acts on a stopped container.
//	Unregister  removes what PVE left in the LXC path, then the conf.
//	Reconcile   makes the confs agree with the tasks after whatever happened.
//
// What is a container of ours is said by the conf itself, in the marker
// lxc.group, which PVE keeps and neither its UI nor its API edits (Owner). A
// conf without it is never changed or removed.
//
// # Locks, in the order in which they are taken
//
//  1. <state>/cursor, flock: the round-robin position of this node. Held for one
//     read and one write, never while another lock is wanted.
//  2. /run/lock/lxc/pve-config-<vmid>.lock, flock: PVE's own lock for changes of
//     a conf, never unlinked. It excludes pct and the API on this node.
//
// A cluster file system that hangs or is away is waited for by one process of the node
// (outage); work that hangs in it keeps the lock of its VMID.
//
// Writers that take no lock, an editor in a shell say, are met with a digest: a
// file is replaced only while it is what the patch was made from.
//
// # Without Proxmox VE
//
// The same files are written to a local directory (Local), with the same locks.
package pve
