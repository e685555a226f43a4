package main

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// x32Bit marks the system calls of the x32 ABI, which shares its audit architecture
// with x86_64 (arch/x86/include/uapi/asm/unistd.h).
const x32Bit = 1 << 30

// enosysStub is the program that goes before libseccomp's. A profile that denies
// by default gives its own errno for a system call that is newer than the profile,
// and C libraries, which try the newest call first and fall back at ENOSYS, take
// EPERM for an answer. So every number above the highest that the profile names
// gets ENOSYS:
//
//	load arch
//	for each architecture:
//	  if arch is another: next architecture
//	  load number
//	  if number > highest: return ENOSYS
//	  go to libseccomp's program
//
// A profile that permits by default needs no stub, nor one that says ENOSYS itself.
func enosysStub(profile *specs.LinuxSeccomp, archs []libseccomp.ScmpArch) ([]byte, error) {
	switch profile.DefaultAction {
	case specs.ActAllow, specs.ActLog, specs.ActTrace:
		// A tracer wants to see the new calls, too.
		return nil, nil
	case specs.ActErrno:
		if profile.DefaultErrnoRet != nil && *profile.DefaultErrnoRet == uint(unix.ENOSYS) {
			return nil, nil
		}
	}
	highest := map[uint32]map[libseccomp.ScmpArch]uint32{}
	for _, arch := range archs {
		audit, ok := auditArchs[arch]
		if !ok {
			return nil, fmt.Errorf("architecture %s has no known audit number", arch)
		}
		if number := highestNumber(profile, arch); number > 0 {
			if highest[audit] == nil {
				highest[audit] = map[libseccomp.ScmpArch]uint32{}
			}
			highest[audit][arch] = number
		}
	}
	stub := []instruction{load(offsetArch)}
	for _, audit := range slices.Sorted(maps.Keys(highest)) {
		body := section(highest[audit])
		stub = append(stub, jumpEqual(audit, 0, uint8(len(body))))
		stub = append(stub, body...)
	}
	var program []byte
	for i, ins := range stub {
		if ins.code == opJump {
			// To the first instruction after the stub.
			ins.k = uint32(len(stub) - i - 1)
		}
		program = ins.append(program)
	}
	return program, nil
}

// section decides by the number; it ends with the jump to libseccomp's program.
func section(highest map[libseccomp.ScmpArch]uint32) []instruction {
	x32, hasX32 := highest[libseccomp.ArchX32]
	x64, hasX64 := highest[libseccomp.ArchAMD64]
	switch {
	case hasX32 && hasX64:
		return []instruction{
			load(offsetNumber),
			jumpSet(x32Bit, 1, 0),
			jumpGreater(x64, 1, 2),
			jumpGreater(x32, 0, 1),
			returnENOSYS,
			jump,
		}
	case hasX64:
		return []instruction{load(offsetNumber), jumpSet(x32Bit, 2, 0), jumpGreater(x64, 0, 1), returnENOSYS, jump}
	case hasX32:
		return []instruction{load(offsetNumber), jumpSet(x32Bit, 0, 2), jumpGreater(x32, 0, 1), returnENOSYS, jump}
	}
	body := []instruction{load(offsetNumber)}
	for arch, number := range highest {
		if arch == libseccomp.ArchS390 || arch == libseccomp.ArchS390X {
			// Number 0, setup, also stands for every call that the kernel does not know.
			body = append(body, jumpEqual(0, 1, 0))
		}
		body = append(body, jumpGreater(number, 0, 1))
	}
	return append(body, returnENOSYS, jump)
}

// highestNumber is the greatest number among the system calls that the profile
// names, 0 if the architecture has none of them.
func highestNumber(profile *specs.LinuxSeccomp, arch libseccomp.ScmpArch) uint32 {
	var highest libseccomp.ScmpSyscall
	for _, call := range profile.Syscalls {
		for _, name := range call.Names {
			// libseccomp gives negative numbers to calls of other architectures.
			if number, err := libseccomp.GetSyscallFromNameByArch(name, arch); err == nil {
				highest = max(highest, number)
			}
		}
	}
	return uint32(highest)
}

// instruction is struct sock_filter (linux/filter.h).
type instruction struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

// Offsets in struct seccomp_data.
const (
	offsetNumber = 0
	offsetArch   = 4
)

const opJump = unix.BPF_JMP | unix.BPF_JA

var (
	// jump goes to libseccomp's program: its distance is filled in at the end.
	jump         = instruction{code: opJump}
	returnENOSYS = instruction{code: unix.BPF_RET | unix.BPF_K, k: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}
)

func load(offset uint32) instruction {
	return instruction{code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, k: offset}
}

func jumpEqual(k uint32, jt, jf uint8) instruction {
	return instruction{code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, jt: jt, jf: jf, k: k}
}

func jumpGreater(k uint32, jt, jf uint8) instruction {
	return instruction{code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, jt: jt, jf: jf, k: k}
}

func jumpSet(k uint32, jt, jf uint8) instruction {
	return instruction{code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, jt: jt, jf: jf, k: k}
}

func (i instruction) append(program []byte) []byte {
	program = binary.NativeEndian.AppendUint16(program, i.code)
	program = append(program, i.jt, i.jf)
	return binary.NativeEndian.AppendUint32(program, i.k)
}

// auditArchs are the numbers that the kernel has for libseccomp's architectures
// (linux/audit.h).
var auditArchs = map[libseccomp.ScmpArch]uint32{
	libseccomp.ArchX86:         unix.AUDIT_ARCH_I386,
	libseccomp.ArchAMD64:       unix.AUDIT_ARCH_X86_64,
	libseccomp.ArchX32:         unix.AUDIT_ARCH_X86_64,
	libseccomp.ArchARM:         unix.AUDIT_ARCH_ARM,
	libseccomp.ArchARM64:       unix.AUDIT_ARCH_AARCH64,
	libseccomp.ArchMIPS:        unix.AUDIT_ARCH_MIPS,
	libseccomp.ArchMIPS64:      unix.AUDIT_ARCH_MIPS64,
	libseccomp.ArchMIPS64N32:   unix.AUDIT_ARCH_MIPS64N32,
	libseccomp.ArchMIPSEL:      unix.AUDIT_ARCH_MIPSEL,
	libseccomp.ArchMIPSEL64:    unix.AUDIT_ARCH_MIPSEL64,
	libseccomp.ArchMIPSEL64N32: unix.AUDIT_ARCH_MIPSEL64N32,
	libseccomp.ArchPPC:         unix.AUDIT_ARCH_PPC,
	libseccomp.ArchPPC64:       unix.AUDIT_ARCH_PPC64,
	libseccomp.ArchPPC64LE:     unix.AUDIT_ARCH_PPC64LE,
	libseccomp.ArchS390:        unix.AUDIT_ARCH_S390,
	libseccomp.ArchS390X:       unix.AUDIT_ARCH_S390X,
	libseccomp.ArchPARISC:      unix.AUDIT_ARCH_PARISC,
	libseccomp.ArchPARISC64:    unix.AUDIT_ARCH_PARISC64,
	libseccomp.ArchRISCV64:     unix.AUDIT_ARCH_RISCV64,
	libseccomp.ArchLOONGARCH64: unix.AUDIT_ARCH_LOONGARCH64,
	libseccomp.ArchM68K:        unix.AUDIT_ARCH_M68K,
	libseccomp.ArchSH:          unix.AUDIT_ARCH_SHEL,
	libseccomp.ArchSHEB:        unix.AUDIT_ARCH_SH,
}
