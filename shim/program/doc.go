// Package program writes the programs that pvelxc-init carries out and speaks its
// protocol. pvelxc-init (shim/init) knows how to do single things; which things,
// and in which order, is decided here:
//
//	oci2lxc.Plan ──Hook──▶ Program ──Conn.SendProgram──▶ pvelxc-init hook   mounts, devices
//	             ──Init──▶                               pvelxc-init init   setup, the process
//	     Process ──Exec──▶                               pvelxc-init exec   a process more
//	             ──Sandbox──▶                            pvelxc-init sandbox   a pod's namespaces
//
// The dialogue, the same for all roles:
//
//	init                              shim
//	MsgHello(role)             ──▶
//	                           ◀──    MsgProgram(memfd), MsgFDs(…) …
//	MsgSync(n)                 ──▶
//	                           ◀──    MsgGo
//	MsgFD(kind, fd)            ──▶
//	MsgDone | MsgError         ──▶
//
// The format is described in shim/init/protocol.h; a test compares the two sides.
package program
