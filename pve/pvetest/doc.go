// Package pvetest emulates what pve touches of a Proxmox VE cluster, for tests:
// pmxcfs as a FUSE file system whose nodes share one database, and PVE's own
// reading and writing of a container's configuration.
package pvetest
