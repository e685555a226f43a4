/* Joining a running container. */
#include <errno.h>
#include <grp.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "kernel.h"
#include "pvx.h"

/* CPUs of the kernel's largest configuration (CONFIG_NR_CPUS). */
#define MAX_CPUS 8192

/* Reads a list of CPUs and applies it; an empty one changes nothing. */
static int set_affinity(struct pvx_reader *r)
{
	static unsigned long mask[MAX_CPUS / (8 * sizeof(unsigned long))];
	const uint32_t bits = 8 * sizeof mask[0];
	uint32_t n = pvx_u32(r);

	memset(mask, 0, sizeof mask);
	if (!n)
		return 0;
	while (n--) {
		uint32_t cpu = pvx_u32(r);

		if (cpu >= MAX_CPUS)
			return pvx_fail(EINVAL, "CPU ", pvx_number((long)cpu), NULL);
		mask[cpu / bits] |= 1ul << cpu % bits;
	}
	return syscall(SYS_sched_setaffinity, 0, sizeof mask, mask) < 0 ? PVX_FAIL("sched_setaffinity") : 0;
}

int pvx_op_affinity(struct pvx_reader *r)
{
	return set_affinity(r);
}

int pvx_become_child(int cgroup)
{
	struct pvx_clone_args args = { .flags = CLONE_PARENT };
	long pid;

	if (cgroup >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)cgroup;
	}
	pid = syscall(SYS_clone3, &args, sizeof args);
	if (pid < 0)
		return cgroup >= 0 ? PVX_FAIL("clone into the container's cgroup") : PVX_FAIL("clone");
	if (pid > 0)
		_exit(0);
	return pvx_send(PVX_MSG_DONE, 0, -1);
}

int pvx_become_root(void)
{
	/* EPERM: setgroups is denied in that namespace. */
	if (syscall(SYS_setgroups, 0, NULL) && errno != EPERM)
		return PVX_FAIL("setgroups");
	if (syscall(SYS_setresgid, 0, 0, 0) || syscall(SYS_setresuid, 0, 0, 0))
		return PVX_FAIL("become root of the user namespace");
	prctl(PR_SET_DUMPABLE, 0); /* new credentials may have changed it */
	return 0;
}

int pvx_op_enter(struct pvx_reader *r)
{
	int pidfd = pvx_fd(r), cgroup = pvx_fd(r);
	uint32_t nv1 = pvx_u32(r), flags, userns;
	struct pvx_reader v1 = *r;

	for (uint32_t i = 0; i < nv1; i++)
		pvx_u32(r);
	flags = pvx_u32(r);
	userns = pvx_u32(r);
	if (set_affinity(r))
		return -1;
	/* A pid namespace is for children. */
	if (flags & CLONE_NEWPID && setns(pidfd, CLONE_NEWPID))
		return PVX_FAIL("join the pid namespace");
	if (pvx_become_child(cgroup))
		return -1;
	for (uint32_t i = 0; i < nv1; i++)
		if (pvx_write(pvx_fd(&v1), "0", 1))
			return PVX_FAIL("join a cgroup");
	flags &= ~(uint32_t)CLONE_NEWPID;
	if (flags && setns(pidfd, (int)flags))
		return PVX_FAIL("join the namespaces");
	if (userns && pvx_become_root())
		return -1;
	prctl(PR_SET_DUMPABLE, 0); /* new credentials may have changed it */
	(void)setsid();
	pvx.root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return pvx.root < 0 ? PVX_FAIL("open /") : 0;
}
