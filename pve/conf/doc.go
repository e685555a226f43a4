// Package conf reads, patches and writes the configuration file of a Proxmox VE
// container, /etc/pve/lxc/<vmid>.conf.
//
// Two properties carry the package:
//
//   - What is not ours survives byte for byte. A Conf keeps the lines it was
//     parsed from; Set, Delete and their like touch single lines.
//   - What is ours is provably well-formed. One conf that PVE cannot parse
//     takes every container off the node's `pct list`, so a value is refused
//     unless it is in a language narrower than PVE accepts (keys.go), and new
//     files are in the very order in which PVE writes them, so that PVE
//     rewriting one changes no byte.
//
// The grammar, as PVE::LXC::Config::parse_pct_config has it:
//
//	#text            a line of the description, percent-encoded
//	key: value       key is [a-z][a-z_]*[0-9]*
//	lxc.x: value     a raw LXC key, also "lxc.x = value"; may repeat
//	[pve:pending]    starts the changes that wait for the next start
//	[name]           starts a snapshot
//
// Everything before the first section is the container itself, and all that
// this package changes.
package conf
