// Package cgroup owns the cgroups of one container: where they are, what limits
// them, who is in them, and that nothing of them remains.
//
// liblxc creates the container's leaf and the monitor's group; this package makes
// the parents before, sets the limits while the container's init is parked, and
// removes what liblxc leaves behind when its monitor was killed. With the systemd
// driver the parent of all three groups is a delegated scope:
//
//	cgroupfs    <parents>/<leaf>      pvelxc.monitor/<id>      pvelxc.pivot/lxc.pivot
//	systemd     <slice>/<scope>/payload   …/<scope>/monitor    …/<scope>/pivot
//
// The order of one container's life:
//
//	Open → Prepare → (monitor process spawned) PrepareScope → (liblxc started, init
//	parked) Apply → OOM, Update, Freeze, Stats, Entry … → Kill → Remove
//
// Three layouts of the host are served (cgroups(7)): v2 alone, v1 alone, and the
// hybrid, where v1 has the controllers and a v2 tree exists beside them. On v1 and
// hybrid hosts one Group stands for the same path in every hierarchy.
package cgroup
