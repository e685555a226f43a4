/* Kernel interfaces for which the C library of the oldest supported distribution has no
 * declaration, by number. Numbers above 423 are the same on every architecture. */
#ifndef PVX_KERNEL_H
#define PVX_KERNEL_H

#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

#ifndef RESOLVE_NO_XDEV
#define RESOLVE_NO_XDEV 0x01
#define RESOLVE_NO_MAGICLINKS 0x02
#define RESOLVE_NO_SYMLINKS 0x04
#define RESOLVE_BENEATH 0x08
#define RESOLVE_IN_ROOT 0x10
#endif

#ifndef CLONE_NEWCGROUP
#define CLONE_NEWCGROUP 0x02000000
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

#define PVX_PROC_SUPER_MAGIC 0x9fa0
#define PVX_DEVPTS_SUPER_MAGIC 0x1cd1
#define PVX_PROC_ROOT_INO 1

struct pvx_open_how {
	uint64_t flags, mode, resolve;
};

struct pvx_clone_args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
		set_tid_size, cgroup;
};

static inline int pvx_openat2(int dir, const char *path, int flags, uint64_t mode, uint64_t resolve)
{
	struct pvx_open_how how = { (uint64_t)flags | O_CLOEXEC, mode, resolve };

	return (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
}

#endif
