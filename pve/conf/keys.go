package conf

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Locks are the values of the key lock, as PVE's schema has them. LockCreate is the only
// one this project sets or removes.
var Locks = []string{"backup", LockCreate, "destroyed", "disk", "fstrim", "migrate", "mounted", "rollback", "snapshot", "snapshot-delete"}

// LockCreate makes PVE refuse to start, stop or change a container.
const LockCreate = "create"

// The languages of what is written. Every one is a subset of PVE's own
// (PVE::LXC::Config's $confdesc, PVE::JSONSchema's formats), and none has a
// byte that any of PVE's line patterns treats specially.
var (
	keyChecks = map[string]func(string) error{
		"cmode":        oneOf("console", "shell", "tty"),
		"cores":        integer(1, 8192),
		"cpulimit":     decimal(8192),
		"cpuunits":     integer(0, 500000),
		"hostname":     matching(hostnamePattern, 63),
		"lock":         oneOf(Locks...),
		"memory":       integer(16, maxMegabytes),
		"onboot":       oneOf("0", "1"),
		"ostype":       oneOf("unmanaged"),
		"protection":   oneOf("0", "1"),
		"rootfs":       func(v string) error { _, err := ParseRootfs(v); return err },
		"swap":         integer(0, maxMegabytes),
		"tags":         matching(tagsPattern, 4096),
		"unprivileged": oneOf("0", "1"),
	}
	rawChecks = map[string]func(string) error{
		"lxc.cgroup2.cpuset.cpus": matching(cpusPattern, 4096),
		"lxc.group":               matching(groupPattern, 1024),
		"lxc.idmap":               matching(idmapPattern, 64),
		"lxc.signal.halt":         matching(signalPattern, 32),
	}

	hostnamePattern = lazy(`^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$`)
	tagsPattern     = lazy(`^[a-z0-9_][a-z0-9_\-+.]*(?:;[a-z0-9_][a-z0-9_\-+.]*)*$`)
	cpusPattern     = lazy(`^[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*$`)
	groupPattern    = lazy(`^[A-Za-z0-9_][A-Za-z0-9_.%/~-]*$`)
	idmapPattern    = lazy(`^[ug] (?:0|[1-9][0-9]{0,9}) (?:0|[1-9][0-9]{0,9}) [1-9][0-9]{0,9}$`)
	signalPattern   = lazy(`^(?:SIG[A-Z][A-Z0-9]*(?:[+-][0-9]{1,2})?|[1-9][0-9]?)$`)
	decimalPattern  = lazy(`^(?:0|[1-9][0-9]{0,3})(?:\.[0-9]{1,6})?$`)
)

// maxMegabytes keeps a size in bytes well inside a signed 64-bit integer.
const maxMegabytes = 1 << 40

// CheckValue fails with ErrInvalidArgument unless this project may write value for key.
func CheckValue(key, value string) error {
	return check(keyChecks, "key", key, value)
}

// CheckRaw fails with ErrInvalidArgument unless this project may write value for the
// raw LXC key.
func CheckRaw(key, value string) error {
	return check(rawChecks, "raw key", key, value)
}

func check(checks map[string]func(string) error, what, key, value string) error {
	f, ok := checks[key]
	if !ok {
		return fmt.Errorf("%s %q is not one of %s: %w", what, key,
			strings.Join(slices.Sorted(maps.Keys(checks)), ", "), errdefs.ErrInvalidArgument)
	}
	if err := f(value); err != nil {
		return fmt.Errorf("%s %s: %w: %w", what, key, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

func oneOf(values ...string) func(string) error {
	return func(v string) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("%q is not one of %s", v, strings.Join(values, ", "))
		}
		return nil
	}
}

func integer(least, most int64) func(string) error {
	return func(v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || strconv.FormatInt(n, 10) != v {
			return fmt.Errorf("%q is not a whole number", v)
		}
		if n < least || n > most {
			return fmt.Errorf("%d is not in %d-%d", n, least, most)
		}
		return nil
	}
}

func decimal(most float64) func(string) error {
	return func(v string) error {
		if !decimalPattern().MatchString(v) {
			return fmt.Errorf("%q is not a decimal number", v)
		}
		if f, err := strconv.ParseFloat(v, 64); err != nil || f > most {
			return fmt.Errorf("%s is more than %g", v, most)
		}
		return nil
	}
}

func matching(pattern func() *regexp.Regexp, longest int) func(string) error {
	return func(v string) error {
		if len(v) > longest {
			return fmt.Errorf("%d bytes are more than %d", len(v), longest)
		}
		if !pattern().MatchString(v) {
			return fmt.Errorf("%q does not match %s", v, pattern())
		}
		return nil
	}
}
