// Package oci2lxc converts an OCI runtime-spec bundle into a Plan: the LXC
// config that builds the sandbox, and everything that the mount hook, PID 1 and
// the shim must do around it. It is pure: no file, clock, process or environment
// is touched, so equal input gives an equal Plan.
//
//	config.json ──Convert──▶ Plan ─┬─ Config      text for liblxc (namespaces, idmap, rootfs, cgroup dirs)
//	   Options ──────┘             ├─ Mounts …    mount hook: container namespaces, before pivot_root
//	                               ├─ Setup       PID 1 at create: sysctl, masks, propagation, hostname
//	                               ├─ Process     PID 1 at start, and every exec: ids, caps, LSM, seccomp, argv
//	                               ├─ Cgroup      the shim, while PID 1 is parked
//	                               └─ Warnings    fields that are ignored, each with its reason
//
// Invariants:
//   - No string of the user's enters Config unless it was proved to be free of
//     the config syntax (see quote.go); hooks, args and environment never do.
//   - Every field of the specification is mapped, ignored with a Warning, or
//     refused with a *FieldError; coverage.go is the table of which.
package oci2lxc
