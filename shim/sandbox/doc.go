// Package sandbox is the sandbox of a pod without a pause container: what its containers share, held by the shim itself.
//
//	        New               Start                    Stop, or the end of PID 1
//	(nothing) ──▶ not ready ──────────▶ ready ────────────────────────────────▶ exited ──Remove──▶ (nothing)
//
// A namespace lives as long as somebody has it open, and this process has those of its pod: pvelxc-init makes them and ends. It
// stays, as PID 1, where the containers share a PID namespace, which needs one. containerd makes the network namespace. What no
// descriptor can hold, the pod's /dev/shm and the files for its /etc, lies in a directory below /run.
//
// CRI tells containers to join the namespaces of the sandbox's process. There is none, and its number is 0, which nothing can mistake
// for a process; Join gives a container's specification the namespaces in the place of those of process 0.
package sandbox
