package oci2lxc

import (
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Features says what Convert takes (runtime-spec features.md). It is made from the tables Convert works with. A feature that the host
// lacks is listed all the same.
func Features() *features.Features {
	yes, no := true, false
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         []string{"createContainer", "createRuntime", "poststart", "poststop", "prestart", "startContainer"},
		MountOptions:  mountOptionNames(),
		Linux: &features.Linux{
			Namespaces:   sorted(namespaceTypes),
			Capabilities: sorted(capabilityNames),
			Cgroup:       &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &no, Rdma: &yes},
			Seccomp: &features.Seccomp{
				Enabled:        &yes,
				Actions:        sorted(slices.Collect(maps.Keys(seccompActions))),
				Operators:      sorted(slices.Collect(maps.Keys(seccompOperators))),
				Archs:          sorted(slices.Collect(maps.Keys(seccompArchs))),
				KnownFlags:     sorted(slices.Collect(maps.Keys(seccompFlags))),
				SupportedFlags: sorted(slices.Collect(maps.Keys(seccompFlags))),
			},
			Apparmor: &features.Apparmor{Enabled: &yes},
			Selinux:  &features.Selinux{Enabled: &yes},
			IntelRdt: &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			MemoryPolicy: &features.MemoryPolicy{
				Modes: sorted(slices.Collect(maps.Keys(memoryModes))),
				Flags: sorted(slices.Collect(maps.Keys(memoryFlags))),
			},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &yes},
		},
	}
}

// mountOptionNames lists the options that are not left to the filesystem.
func mountOptionNames() []string {
	names := []string{"bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap", "defaults"}
	for _, table := range []map[string]attrOption{attrOptions, atimeOptions} {
		for name := range table {
			names = append(names, name, "r"+name)
		}
	}
	names = slices.AppendSeq(names, maps.Keys(propagations))
	names = slices.AppendSeq(names, maps.Keys(superOptions))
	names = slices.AppendSeq(names, maps.Keys(inertOptions))
	return sorted(names)
}

func sorted[S ~string](values []S) []string {
	names := make([]string, len(values))
	for i, value := range values {
		names[i] = string(value)
	}
	slices.Sort(names)
	return names
}
