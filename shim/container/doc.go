// Package container is one container of a pod: it builds it from a bundle,
// starts, stops and watches its processes, and takes everything away again.
//
//	             Create              Start             the process ends
//	(nothing) ──────────▶ Created ──────────▶ Running ─────────────────▶ Stopped ──Delete──▶ (nothing)
//	                         │                 │   ▲                        ▲
//	                         │           Pause ▼   │ Resume                 │
//	                         │                Paused                        │
//	                         └── Kill, or Delete of what never ran ─────────┘
//
// An exec runs through the same phases; AddExec reserves its id and starts
// nothing. Events are emitted under the process's lock at the moment of the
// transition, so their order is the order of the transitions; the sink must not
// block. All execs' exits come before the init's.
//
// Lock order: Container.mu, then Process.mu. Neither is held across a wait, a
// system call that can sleep for long, or a call to the outside.
package container
