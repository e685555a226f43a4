package oci2lxc

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// seccompActions are the actions that the specification has; the value says whether
// errnoRet belongs to it.
var seccompActions = map[specs.LinuxSeccompAction]bool{
	specs.ActKill: false, specs.ActKillProcess: false, specs.ActKillThread: false, specs.ActTrap: false,
	specs.ActErrno: true, specs.ActTrace: true, specs.ActAllow: false, specs.ActLog: false, specs.ActNotify: false,
}

var seccompArchs = map[specs.Arch]bool{
	specs.ArchX86: true, specs.ArchX86_64: true, specs.ArchX32: true, specs.ArchARM: true, specs.ArchAARCH64: true,
	specs.ArchMIPS: true, specs.ArchMIPS64: true, specs.ArchMIPS64N32: true, specs.ArchMIPSEL: true,
	specs.ArchMIPSEL64: true, specs.ArchMIPSEL64N32: true, specs.ArchPPC: true, specs.ArchPPC64: true,
	specs.ArchPPC64LE: true, specs.ArchS390: true, specs.ArchS390X: true, specs.ArchPARISC: true,
	specs.ArchPARISC64: true, specs.ArchRISCV64: true, specs.ArchLOONGARCH64: true, specs.ArchM68K: true,
	specs.ArchSH: true, specs.ArchSHEB: true,
}

var seccompOperators = map[specs.LinuxSeccompOperator]bool{
	specs.OpNotEqual: true, specs.OpLessThan: true, specs.OpLessEqual: true, specs.OpEqualTo: true,
	specs.OpGreaterEqual: true, specs.OpGreaterThan: true, specs.OpMaskedEqual: true,
}

// flagTsync is not in the bindings and is in the wild. PID 1 has one thread, so it
// changes nothing.
const flagTsync specs.LinuxSeccompFlag = "SECCOMP_FILTER_FLAG_TSYNC"

var seccompFlags = map[specs.LinuxSeccompFlag]bool{
	specs.LinuxSeccompFlagLog: true, specs.LinuxSeccompFlagSpecAllow: true,
	specs.LinuxSeccompFlagWaitKillableRecv: true, flagTsync: true,
}

// maxErrno is the largest number that the kernel passes on as an error; a tracer may
// be given any 16 bits.
const maxErrno, maxTraceRet = 4095, 1<<16 - 1

// seccomp validates the filter (config-linux.md#seccomp). Names of system calls are
// not checked: which exist is the matter of whoever compiles the filter, and unknown
// ones must be skipped.
func (c *converter) seccomp() {
	s := c.linux.Seccomp
	if s == nil || s.DefaultAction == "" && len(s.Syscalls) == 0 {
		return
	}
	const field = "linux.seccomp."
	out := *s
	c.action(field+"defaultAction", s.DefaultAction)
	c.errnoRet(field+"defaultErrnoRet", s.DefaultAction, s.DefaultErrnoRet)
	if s.DefaultAction == specs.ActNotify {
		c.invalid(field+"defaultAction", "notify for single system calls", "%q would stop PID 1 before it can hand over the listener", s.DefaultAction)
	}
	for i, a := range s.Architectures {
		if !seccompArchs[a] {
			c.invalid(fmt.Sprintf("%sarchitectures[%d]", field, i), "", "%.80q is not an architecture", a)
		}
	}
	if s.Flags == nil {
		// As runc: the mitigation that a filter turns on by default costs more than it gives.
		out.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagSpecAllow}
	}
	for i, f := range s.Flags {
		if !seccompFlags[f] {
			c.invalid(fmt.Sprintf("%sflags[%d]", field, i), "", "%.80q is not a flag", f)
		}
	}
	notify := false
	for i, call := range s.Syscalls {
		c.syscall(fmt.Sprintf("%ssyscalls[%d]", field, i), call)
		notify = notify || call.Action == specs.ActNotify
	}
	c.listener(s, notify)
	c.plan.Seccomp = &out
}

func (c *converter) syscall(field string, call specs.LinuxSyscall) {
	if len(call.Names) == 0 {
		c.invalid(field+".names", "", "empty")
	}
	for i, name := range call.Names {
		switch {
		case name == "":
			c.invalid(fmt.Sprintf("%s.names[%d]", field, i), "", "empty")
		case (name == "write" || name == "sendmsg") && call.Action == specs.ActNotify:
			c.unsupported(fmt.Sprintf("%s.names[%d]", field, i), "", "%s cannot be notified: PID 1 needs it to hand over the listener", name)
		default:
			c.text(fmt.Sprintf("%s.names[%d]", field, i), name)
		}
	}
	c.action(field+".action", call.Action)
	c.errnoRet(field+".errnoRet", call.Action, call.ErrnoRet)
	for i, a := range call.Args {
		f := fmt.Sprintf("%s.args[%d]", field, i)
		if a.Index > 5 {
			c.invalid(f+".index", "0 to 5", "%d is out of range", a.Index)
		}
		if !seccompOperators[a.Op] {
			c.invalid(f+".op", "", "%.80q is not an operator", a.Op)
		}
	}
}

func (c *converter) action(field string, a specs.LinuxSeccompAction) {
	if _, ok := seccompActions[a]; !ok {
		c.invalid(field, "", "%.80q is not an action", a)
	}
}

func (c *converter) errnoRet(field string, a specs.LinuxSeccompAction, ret *uint) {
	if ret == nil {
		return
	}
	limit := uint(maxErrno)
	if a == specs.ActTrace {
		limit = maxTraceRet
	}
	switch has, known := seccompActions[a]; {
	case known && !has:
		c.invalid(field, "", "%q returns no error number", a)
	case *ret > limit:
		c.invalid(field, "", "%d is out of range", *ret)
	}
}

// listener checks where the notify descriptor goes: a socket's path on the host.
func (c *converter) listener(s *specs.LinuxSeccomp, notify bool) {
	const field = "linux.seccomp."
	const sunPath = len(unix.RawSockaddrUnix{}.Path)
	switch {
	case s.ListenerPath == "" && s.ListenerMetadata != "":
		c.invalid(field+"listenerMetadata", "", "there is no listenerPath")
	case s.ListenerPath == "" && notify:
		c.invalid(field+"listenerPath", "", "a rule notifies, and there is nobody to be notified")
	case s.ListenerPath != "" && (!cleanAbs(s.ListenerPath) || len(s.ListenerPath) >= sunPath):
		c.invalid(field+"listenerPath", "", "%.80q is not an absolute path of a socket", s.ListenerPath)
	case s.ListenerPath != "" && !notify:
		c.warn(field+"listenerPath", "no rule notifies")
	}
}
