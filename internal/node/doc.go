// Package node puts the parts together as this node's configuration says: the
// engine that makes containers, and the registrar that tells Proxmox VE of them.
//
//	containerd's options ──▶ config.Override ──▶ container.Settings ─┐
//	/etc/pvelxc/config.toml ──▶ config.Load ──┘        pve.Registrar ─┴─▶ container.Create
//
// Neither shim/container nor pve knows the other.
package node
