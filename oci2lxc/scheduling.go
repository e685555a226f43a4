package oci2lxc

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// schedulerPolicies are the numbers of linux/sched.h. SCHED_ISO (4) was reserved and
// never built.
var schedulerPolicies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: unix.SCHED_NORMAL, specs.SchedFIFO: unix.SCHED_FIFO, specs.SchedRR: unix.SCHED_RR,
	specs.SchedBatch: unix.SCHED_BATCH, specs.SchedIdle: unix.SCHED_IDLE, specs.SchedDeadline: unix.SCHED_DEADLINE,
}

var schedulerFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: unix.SCHED_FLAG_RESET_ON_FORK, specs.SchedFlagReclaim: unix.SCHED_FLAG_RECLAIM,
	specs.SchedFlagDLOverrun: unix.SCHED_FLAG_DL_OVERRUN, specs.SchedFlagKeepPolicy: unix.SCHED_FLAG_KEEP_POLICY,
	specs.SchedFlagKeepParams: unix.SCHED_FLAG_KEEP_PARAMS, specs.SchedFlagUtilClampMin: unix.SCHED_FLAG_UTIL_CLAMP_MIN,
	specs.SchedFlagUtilClampMax: unix.SCHED_FLAG_UTIL_CLAMP_MAX,
}

// scheduler converts process.scheduler by the rules of sched_setattr(2).
func (c *converter) scheduler(s *specs.Scheduler) *Scheduler {
	if s == nil {
		return nil
	}
	const field = "process.scheduler"
	policy, ok := schedulerPolicies[s.Policy]
	switch {
	case s.Policy == specs.SchedISO:
		c.unsupported(field+".policy", "", "Linux has no SCHED_ISO")
	case !ok:
		c.invalid(field+".policy", "", "%.80q is not a scheduling policy", s.Policy)
	}
	out := &Scheduler{Policy: policy, Nice: s.Nice, Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period}
	for i, f := range s.Flags {
		bit, ok := schedulerFlags[f]
		if !ok {
			c.invalid(fmt.Sprintf("%s.flags[%d]", field, i), "", "%.80q is not a scheduling flag", f)
		}
		out.Flags |= bit
	}
	if s.Nice < -20 || s.Nice > 19 {
		c.invalid(field+".nice", "-20 to 19", "%d is out of range", s.Nice)
	}
	realtime := s.Policy == specs.SchedFIFO || s.Policy == specs.SchedRR
	switch {
	case realtime && (s.Priority < 1 || s.Priority > 99):
		c.invalid(field+".priority", "1 to 99", "%d is out of range", s.Priority)
	case !realtime && s.Priority != 0:
		c.invalid(field+".priority", "", "it is for SCHED_FIFO and SCHED_RR")
	default:
		out.Priority = uint32(s.Priority)
	}
	deadline := s.Policy == specs.SchedDeadline
	switch {
	case !deadline && (s.Runtime != 0 || s.Deadline != 0 || s.Period != 0):
		c.invalid(field, "", "runtime, deadline and period are for SCHED_DEADLINE")
	case deadline && (s.Runtime < 1024 || s.Runtime > s.Deadline || s.Period != 0 && s.Deadline > s.Period):
		c.invalid(field, "1024 ns ≤ runtime ≤ deadline ≤ period", "runtime %d, deadline %d, period %d", s.Runtime, s.Deadline, s.Period)
	}
	return out
}

// ioPriority converts process.ioPriority to ioprio_set(2)'s number.
func (c *converter) ioPriority(p *specs.LinuxIOPriority) *int {
	if p == nil {
		return nil
	}
	classes := map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}
	class, ok := classes[p.Class]
	if !ok {
		c.invalid("process.ioPriority.class", "", "%.80q is not an I/O scheduling class", p.Class)
	}
	if p.Priority < 0 || p.Priority > 7 {
		c.invalid("process.ioPriority.priority", "0 to 7", "%d is out of range", p.Priority)
	}
	v := class<<13 | p.Priority
	return &v
}

// personality converts linux.personality to personality(2)'s PER_*.
func (c *converter) personality() *uint32 {
	p := c.linux.Personality
	if p == nil {
		return nil
	}
	domains := map[specs.LinuxPersonalityDomain]uint32{specs.PerLinux: 0, specs.PerLinux32: 8}
	domain, ok := domains[p.Domain]
	if !ok {
		c.invalid("linux.personality.domain", "LINUX or LINUX32", "%.80q is not a personality", p.Domain)
	}
	if len(p.Flags) > 0 {
		c.invalid("linux.personality.flags", "", "the specification defines no flags, and %.80q is given", p.Flags[0])
	}
	return &domain
}

var memoryModes = map[specs.MemoryPolicyModeType]int{
	specs.MpolDefault: unix.MPOL_DEFAULT, specs.MpolPreferred: unix.MPOL_PREFERRED, specs.MpolBind: unix.MPOL_BIND,
	specs.MpolInterleave: unix.MPOL_INTERLEAVE, specs.MpolLocal: unix.MPOL_LOCAL,
	specs.MpolPreferredMany: unix.MPOL_PREFERRED_MANY, specs.MpolWeightedInterleave: unix.MPOL_WEIGHTED_INTERLEAVE,
}

var memoryFlags = map[specs.MemoryPolicyFlagType]int{
	specs.MpolFStaticNodes: unix.MPOL_F_STATIC_NODES, specs.MpolFRelativeNodes: unix.MPOL_F_RELATIVE_NODES,
	specs.MpolFNumaBalancing: unix.MPOL_F_NUMA_BALANCING,
}

// memoryPolicy converts linux.memoryPolicy by the rules of set_mempolicy(2).
func (c *converter) memoryPolicy() *MemoryPolicy {
	p := c.linux.MemoryPolicy
	if p == nil {
		return nil
	}
	const field = "linux.memoryPolicy"
	mode, ok := memoryModes[p.Mode]
	if !ok {
		c.invalid(field+".mode", "", "%.80q is not a memory policy", p.Mode)
		return nil
	}
	nodes, err := parseList(p.Nodes, maxNode)
	if err != nil {
		c.invalid(field+".nodes", "for example 0-1,3", "%v", err)
	}
	flags := 0
	for i, f := range p.Flags {
		bit, ok := memoryFlags[f]
		if !ok {
			c.invalid(fmt.Sprintf("%s.flags[%d]", field, i), "", "%.80q is not a flag", f)
		}
		flags |= bit
	}
	switch {
	case mode == unix.MPOL_DEFAULT || mode == unix.MPOL_LOCAL:
		if len(nodes) > 0 {
			c.invalid(field+".nodes", "leave it empty", "%s takes no nodes", p.Mode)
		}
		if flags != 0 {
			c.invalid(field+".flags", "", "%s takes no flags", p.Mode)
		}
	case mode != unix.MPOL_PREFERRED && len(nodes) == 0 && err == nil:
		c.invalid(field+".nodes", "", "%s needs a node", p.Mode)
	}
	if both := unix.MPOL_F_STATIC_NODES | unix.MPOL_F_RELATIVE_NODES; flags&both == both {
		c.invalid(field+".flags", "", "static and relative nodes exclude each other")
	}
	if flags&unix.MPOL_F_NUMA_BALANCING != 0 && mode != unix.MPOL_BIND && mode != unix.MPOL_PREFERRED_MANY {
		c.invalid(field+".flags", "", "MPOL_F_NUMA_BALANCING is for MPOL_BIND and MPOL_PREFERRED_MANY")
	}
	return &MemoryPolicy{Mode: mode | flags, Nodes: nodes}
}

// affinity converts process.execCPUAffinity.
func (c *converter) affinity(a *specs.CPUAffinity) *Affinity {
	if a == nil || a.Initial == "" && a.Final == "" {
		return nil
	}
	out := &Affinity{}
	for _, l := range []struct {
		field, text string
		to          *[]int
	}{{"initial", a.Initial, &out.Initial}, {"final", a.Final, &out.Final}} {
		cpus, err := parseList(l.text, maxCPU)
		if err != nil {
			c.invalid("process.execCPUAffinity."+l.field, "for example 0-3,7", "%v", err)
		}
		*l.to = cpus
	}
	return out
}

// maxCPU and maxNode are the largest numbers that Linux can be built for.
const maxCPU, maxNode = 8191, 1023

// parseList reads a list of numbers and ranges (cpuset(7), "List format"), sorted and
// without repeats. The empty text is the empty list.
func parseList(s string, limit int) ([]int, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	seen := make([]bool, limit+1)
	for _, part := range strings.Split(s, ",") {
		lo, hi, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			hi = lo
		}
		from, err := listNumber(lo, limit)
		if err != nil {
			return nil, err
		}
		to, err := listNumber(hi, limit)
		if err != nil {
			return nil, err
		}
		if from > to {
			return nil, fmt.Errorf("the range %d-%d is empty", from, to)
		}
		for i := from; i <= to; i++ {
			seen[i] = true
		}
	}
	var list []int
	for i, in := range seen {
		if in {
			list = append(list, i)
		}
	}
	return list, nil
}

func listNumber(s string, limit int) (int, error) {
	if s == "" || len(s) > 9 || !only(s, digits) {
		return 0, fmt.Errorf("%.80q is not a number", s)
	}
	n, err := strconv.Atoi(s)
	if err != nil || n > limit {
		return 0, fmt.Errorf("%s is more than %d, the most that Linux has", s, limit)
	}
	return n, nil
}
