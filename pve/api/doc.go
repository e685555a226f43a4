// Package api is a client for the part of Proxmox VE's REST API that files cannot
// replace: membership in pools, the state of guests on other nodes, and the log
// of what an admin's click did. Nothing that a starting container waits for is
// here, and whatever fails here leaves the registration in /etc/pve as it is.
//
// Every method is idempotent and retried with back-off where the server could not
// be reached, broke off its answer, or was waiting for a lock.
package api
