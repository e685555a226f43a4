package pve

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/pvelxc/pvelxc/pve/conf"
)

// Limits are what PVE shows of a container's resources, in the kernel's terms
// (cgroup v2). The zero value is no limit at all.
type Limits struct {
	// Memory in bytes; 0 is unlimited.
	Memory int64
	// Swap in bytes, beside memory and not including it; Unlimited is as much as
	// there is, 0 none.
	Swap int64
	// CPUQuota is the time in microseconds that may be used in each CPUPeriod; 0 in
	// either is unlimited.
	CPUQuota, CPUPeriod int64
	// CPUWeight is cpu.weight, 1 to 10000; 0 is the kernel's default, 100.
	CPUWeight uint64
	// CPUs is cpuset.cpus, such as "0-3,8"; empty is every CPU.
	CPUs string
}

// Unlimited is a Swap without limit.
const Unlimited = -1

// host is what a missing limit means on this machine.
type host struct {
	memory, swap int64
	cpus         string
}

// keys that limits are written to, and that Update may touch. A value of "" removes the
// key.
const (
	keyMemory   = "memory"
	keySwap     = "swap"
	keyCores    = "cores"
	keyCPULimit = "cpulimit"
	keyCPUUnits = "cpuunits"
	rawCPUs     = "lxc.cgroup2.cpuset.cpus"
)

var limitKeys = []string{keyMemory, keySwap, keyCores, keyCPULimit, keyCPUUnits, rawCPUs}

// keys returns the values of limitKeys. An unlimited container has the host's
// memory: without the key PVE would show 512 MB. The cpuset is always there:
// without it pvestatd spreads the container over all CPUs, undoing any pinning.
func (l Limits) keys(h host) map[string]string {
	memory, swap := l.Memory, l.Swap
	if memory <= 0 || h.memory > 0 && memory > h.memory {
		memory = h.memory
	}
	if swap < 0 || h.memory > 0 && swap > h.swap {
		swap = h.swap
	}
	v := map[string]string{
		keyMemory: strconv.FormatInt(max(megabytes(memory), 16), 10),
		keySwap:   strconv.FormatInt(megabytes(swap), 10),
		rawCPUs:   l.CPUs,
	}
	cores := countCPUs(l.CPUs)
	if l.CPUs == "" {
		v[rawCPUs] = h.cpus
	}
	if l.CPUQuota > 0 && l.CPUPeriod > 0 {
		limit := min(max(float64(l.CPUQuota)/float64(l.CPUPeriod), 0.0001), 8192)
		v[keyCPULimit] = strings.TrimRight(strings.TrimRight(strconv.FormatFloat(limit, 'f', 4, 64), "0"), ".")
		if n := int(math.Ceil(limit)); cores == 0 || n < cores {
			cores = n
		}
	}
	if cores > 0 {
		v[keyCores] = strconv.Itoa(min(cores, 8192))
	}
	if l.CPUWeight > 0 {
		v[keyCPUUnits] = strconv.FormatUint(min(l.CPUWeight, 10000), 10)
	}
	return v
}

// apply writes the keys whose value changed from one set of limits to the other;
// the others may carry an admin's edit, and stay.
func apply(c *conf.Conf, from, to map[string]string) error {
	for _, key := range limitKeys {
		if from != nil && from[key] == to[key] {
			continue
		}
		var err error
		switch value := to[key]; {
		case strings.HasPrefix(key, "lxc.") && value == "":
			err = c.SetRaw(key)
		case strings.HasPrefix(key, "lxc."):
			err = c.SetRaw(key, value)
		case value == "":
			c.Delete(key)
		default:
			err = c.Set(key, value)
		}
		if err != nil {
			return fmt.Errorf("write limits: %w", err)
		}
	}
	return nil
}

// megabytes rounds up: a limit that is shown must not be lower than the one in force.
func megabytes(bytes int64) int64 {
	const mb = 1 << 20
	if bytes%mb == 0 {
		return bytes / mb
	}
	return bytes/mb + 1
}

// countCPUs counts a list such as "0-3,8"; 0 for one that is empty or malformed.
func countCPUs(list string) int {
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return 0
		}
		b := a
		if isRange {
			if b, err = strconv.ParseUint(last, 10, 16); err != nil || b < a {
				return 0
			}
		}
		n += int(b-a) + 1
	}
	return n
}
