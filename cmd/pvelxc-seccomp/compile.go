package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/shim/seccomp"
)

// treeThreshold is the number of rules from which libseccomp sorts them into a
// binary tree: below it the linear program is as fast, and libseccomp before 2.5.5
// makes wrong trees of none.
const treeThreshold = 32

// compile translates a profile, with the meaning that runc gives it.
func compile(profile *specs.LinuxSeccomp) (*seccomp.Filter, error) {
	flags, err := filterFlags(profile.Flags)
	if err != nil {
		return nil, err
	}
	defaultAction, err := convertAction(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("defaultAction: %w", err)
	}
	if defaultAction == libseccomp.ActNotify {
		return nil, fmt.Errorf("defaultAction: %s cannot be the default: PID 1 would be stopped before it can hand the listener over", profile.DefaultAction)
	}
	filter, err := libseccomp.NewFilter(defaultAction)
	if err != nil {
		return nil, fmt.Errorf("create the filter: %w", err)
	}
	defer filter.Release()
	archs, err := architectures(profile.Architectures)
	if err != nil {
		return nil, err
	}
	for _, arch := range archs {
		if err := filter.AddArch(arch); err != nil {
			return nil, fmt.Errorf("add architecture %s: %w", arch, err)
		}
	}
	rules, notify := 0, false
	for i, call := range profile.Syscalls {
		added, err := addRules(filter, call, defaultAction)
		if err != nil {
			return nil, fmt.Errorf("syscalls[%d]: %w", i, err)
		}
		rules += added
		notify = notify || call.Action == specs.ActNotify
	}
	if rules > treeThreshold {
		// Versions before 2.5 have no trees, and are only slower.
		_ = filter.SetOptimize(2)
	}
	if notify {
		flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	} else {
		// The kernel refuses it without a listener.
		flags &^= filterFlagWaitKillableRecv
	}
	main, err := export(filter)
	if err != nil {
		return nil, err
	}
	stub, err := enosysStub(profile, archs)
	if err != nil {
		return nil, err
	}
	return &seccomp.Filter{Program: append(stub, main...), Flags: flags, Notify: notify}, nil
}

// addRules says how many rules it has added.
func addRules(filter *libseccomp.ScmpFilter, call specs.LinuxSyscall, defaultAction libseccomp.ScmpAction) (int, error) {
	action, err := convertAction(call.Action, call.ErrnoRet)
	if err != nil {
		return 0, err
	}
	if action == defaultAction {
		// It says nothing new, and libseccomp takes it for an error.
		return 0, nil
	}
	conditions, err := convertArgs(call.Args)
	if err != nil {
		return 0, err
	}
	added := 0
	for _, name := range call.Names {
		if call.Action == specs.ActNotify && (name == "write" || name == "sendmsg") {
			return 0, fmt.Errorf("%s cannot be notified: PID 1 needs it to hand the listener over", name)
		}
		number, err := libseccomp.GetSyscallFromName(name)
		if err != nil {
			// Of another architecture, or newer than libseccomp: profiles list both.
			continue
		}
		for _, all := range conditions {
			if len(all) == 0 {
				err = filter.AddRule(number, action)
			} else {
				err = filter.AddRuleConditional(number, action, all)
			}
			if err != nil {
				return 0, fmt.Errorf("%s: %w", name, err)
			}
			added++
		}
	}
	return added, nil
}

// convertArgs gives the rules' conditions: one rule which needs all of them, unless
// two are about the same argument. libseccomp has no such rule, and each becomes
// one of its own then: any of them is enough.
func convertArgs(args []specs.LinuxSeccompArg) ([][]libseccomp.ScmpCondition, error) {
	var all []libseccomp.ScmpCondition
	seen, repeated := map[uint]bool{}, false
	for i, arg := range args {
		op, ok := operators[arg.Op]
		if !ok {
			return nil, fmt.Errorf("args[%d]: unknown operator %q", i, arg.Op)
		}
		condition, err := libseccomp.MakeCondition(arg.Index, op, arg.Value, arg.ValueTwo)
		if err != nil {
			return nil, fmt.Errorf("args[%d]: %w", i, err)
		}
		repeated = repeated || seen[arg.Index]
		seen[arg.Index] = true
		all = append(all, condition)
	}
	if !repeated {
		return [][]libseccomp.ScmpCondition{all}, nil
	}
	var each [][]libseccomp.ScmpCondition
	for _, condition := range all {
		each = append(each, []libseccomp.ScmpCondition{condition})
	}
	return each, nil
}

var operators = map[specs.LinuxSeccompOperator]libseccomp.ScmpCompareOp{
	specs.OpNotEqual:     libseccomp.CompareNotEqual,
	specs.OpLessThan:     libseccomp.CompareLess,
	specs.OpLessEqual:    libseccomp.CompareLessOrEqual,
	specs.OpEqualTo:      libseccomp.CompareEqual,
	specs.OpGreaterEqual: libseccomp.CompareGreaterEqual,
	specs.OpGreaterThan:  libseccomp.CompareGreater,
	specs.OpMaskedEqual:  libseccomp.CompareMaskedEqual,
}

// convertAction gives EPERM to the actions that have a number and got none.
func convertAction(action specs.LinuxSeccompAction, ret *uint) (libseccomp.ScmpAction, error) {
	number := int16(unix.EPERM)
	if ret != nil {
		number = int16(*ret)
	}
	switch action {
	case specs.ActKill, specs.ActKillThread:
		return libseccomp.ActKillThread, nil
	case specs.ActKillProcess:
		return libseccomp.ActKillProcess, nil
	case specs.ActTrap:
		return libseccomp.ActTrap, nil
	case specs.ActErrno:
		return libseccomp.ActErrno.SetReturnCode(number), nil
	case specs.ActTrace:
		return libseccomp.ActTrace.SetReturnCode(number), nil
	case specs.ActAllow:
		return libseccomp.ActAllow, nil
	case specs.ActLog:
		return libseccomp.ActLog, nil
	case specs.ActNotify:
		return libseccomp.ActNotify, nil
	}
	return libseccomp.ActInvalid, fmt.Errorf("unknown action %q", action)
}

// architectures lists those of the filter, the native one always among them:
// libseccomp adds it whether it is listed or not.
func architectures(listed []specs.Arch) ([]libseccomp.ScmpArch, error) {
	native, err := libseccomp.GetNativeArch()
	if err != nil {
		return nil, fmt.Errorf("native architecture: %w", err)
	}
	archs := []libseccomp.ScmpArch{native}
	for _, name := range listed {
		arch, err := libseccomp.GetArchFromString(strings.TrimPrefix(string(name), "SCMP_ARCH_"))
		if err != nil {
			return nil, fmt.Errorf("unknown architecture %q: %w", name, err)
		}
		if arch != native {
			archs = append(archs, arch)
		}
	}
	return archs, nil
}

const (
	// filterFlagWaitKillableRecv is SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, since
	// Linux 5.19.
	filterFlagWaitKillableRecv = 1 << 5
	// flagTsync is older than the specification's list. It has no meaning here: the
	// process that loads the filter has one thread.
	flagTsync specs.LinuxSeccompFlag = "SECCOMP_FILTER_FLAG_TSYNC"
)

func filterFlags(names []specs.LinuxSeccompFlag) (uint32, error) {
	var flags uint32
	for _, name := range names {
		switch name {
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			flags |= filterFlagWaitKillableRecv
		case flagTsync:
		default:
			return 0, fmt.Errorf("unknown flag %q", name)
		}
	}
	return flags, nil
}

// export gives the program of a filter as libseccomp writes it, to a descriptor.
func export(filter *libseccomp.ScmpFilter) ([]byte, error) {
	fd, err := unix.MemfdCreate("seccomp", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "seccomp")
	defer file.Close()
	if err := filter.ExportBPF(file); err != nil {
		return nil, fmt.Errorf("export the program: %w", err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read the program: %w", err)
	}
	program, err := io.ReadAll(file)
	if err != nil {
		return nil, fmt.Errorf("read the program: %w", err)
	}
	return program, nil
}
