/* User, groups, capabilities, seccomp. */
#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "kernel.h"
#include "pvx.h"

#ifndef SECCOMP_FILTER_FLAG_NEW_LISTENER
#define SECCOMP_FILTER_FLAG_NEW_LISTENER (1u << 3)
#endif

struct caps {
	uint64_t effective, permitted, inheritable;
};

static const struct __user_cap_header_struct self = { _LINUX_CAPABILITY_VERSION_3, 0 };

static int get_caps(struct caps *c)
{
	struct __user_cap_header_struct h = self;
	struct __user_cap_data_struct d[2];

	if (syscall(SYS_capget, &h, d))
		return PVX_FAIL("capget");
	c->effective = d[0].effective | (uint64_t)d[1].effective << 32;
	c->permitted = d[0].permitted | (uint64_t)d[1].permitted << 32;
	c->inheritable = d[0].inheritable | (uint64_t)d[1].inheritable << 32;
	return 0;
}

static int set_caps(const struct caps *c)
{
	struct __user_cap_header_struct h = self;
	struct __user_cap_data_struct d[2];

	for (int i = 0; i < 2; i++) {
		d[i].effective = (uint32_t)(c->effective >> 32 * i);
		d[i].permitted = (uint32_t)(c->permitted >> 32 * i);
		d[i].inheritable = (uint32_t)(c->inheritable >> 32 * i);
	}
	return syscall(SYS_capset, &h, d) ? PVX_FAIL("capset") : 0;
}

static int drop_bounding(uint64_t keep)
{
	for (unsigned cap = 0; cap < 64; cap++) {
		if (keep >> cap & 1)
			continue;
		if (!prctl(PR_CAPBSET_DROP, cap, 0, 0, 0))
			continue;
		if (errno == EINVAL)
			return 0; /* past the last one that this kernel knows */
		return PVX_FAIL("drop capability ", pvx_number((long)cap), " from the bounding set");
	}
	return 0;
}

static int raise_ambient(uint64_t set)
{
	/* A kernel without ambient capabilities is too old for us; EINVAL cannot be. */
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
		return PVX_FAIL("clear the ambient set");
	for (unsigned cap = 0; cap < 64; cap++)
		if (set >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0))
			return PVX_FAIL("raise ambient capability ", pvx_number((long)cap));
	return 0;
}

/* Tells whether setgroups(2) is switched off in this user namespace. */
static int setgroups_denied(void)
{
	int fd = pvx_proc("self/setgroups", O_RDONLY);
	char buf[8] = "";
	ssize_t n = -1;

	if (fd >= 0) {
		n = read(fd, buf, sizeof buf - 1);
		close(fd);
	}
	return n > 0 && !strncmp(buf, "deny", 4);
}

static int set_groups(struct pvx_reader *r)
{
	static gid_t groups[65536]; /* NGROUPS_MAX */
	uint32_t n = pvx_u32(r);
	int err;

	if (n > sizeof groups / sizeof groups[0])
		return pvx_fail(EINVAL, "too many groups", NULL);
	for (uint32_t i = 0; i < n; i++)
		groups[i] = pvx_u32(r);
	if (!syscall(SYS_setgroups, n, groups))
		return 0;
	err = errno;
	/* Where it is switched off, no groups are all that can be had; runc goes on as well. */
	if (err == EPERM && setgroups_denied())
		return 0;
	return pvx_fail(err, "setgroups", NULL);
}

static int set_ids(uid_t uid, gid_t gid)
{
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
		return PVX_FAIL("keep capabilities");
	if (syscall(SYS_setresgid, gid, gid, gid))
		return PVX_FAIL("setgid ", pvx_number((long)gid));
	if (syscall(SYS_setresuid, uid, uid, uid))
		return PVX_FAIL("setuid ", pvx_number((long)uid));
	if (prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0))
		return PVX_FAIL("keep capabilities");
	prctl(PR_SET_DUMPABLE, 0); /* the kernel has set it to fs.suid_dumpable */
	return 0;
}

int pvx_op_user(struct pvx_reader *r)
{
	const uint64_t admin = 1ull << CAP_SYS_ADMIN;
	uint64_t bounding = pvx_u64(r), ambient, keep;
	struct caps want, have = { 0 };
	uid_t uid;
	gid_t gid;

	want.effective = pvx_u64(r);
	want.permitted = pvx_u64(r);
	want.inheritable = pvx_u64(r);
	ambient = pvx_u64(r);
	/* What is permitted now has no part in what execve computes (capabilities(7)). */
	keep = pvx_u32(r) ? admin : 0;
	uid = pvx_u32(r);
	gid = pvx_u32(r);
	if (get_caps(&have) || drop_bounding(bounding) || set_groups(r) || set_ids(uid, gid))
		return -1;
	/* "Any value which cannot be granted MUST NOT cause an error" (config.md): a container's
	 * capabilities end where the shim's do. */
	want.permitted = (want.permitted | keep) & have.permitted;
	want.effective = (want.effective | keep) & want.permitted;
	want.inheritable &= have.permitted & bounding;
	return set_caps(&want) || raise_ambient(ambient & want.permitted & want.inheritable) ? -1 : 0;
}

int pvx_op_seccomp(struct pvx_reader *r)
{
	uint32_t flags = pvx_u32(r), len;
	const unsigned char *filter = pvx_bytes(r, &len);
	struct sock_fprog prog = { .len = (unsigned short)(len / sizeof(struct sock_filter)) };
	long rc;

	if (!len || len % sizeof(struct sock_filter) || len / sizeof(struct sock_filter) > BPF_MAXINSNS)
		return pvx_fail(EINVAL, "size of the filter", NULL);
	/* The kernel copies it, so its alignment does not matter. */
	prog.filter = (struct sock_filter *)(uintptr_t)filter;
	rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog);
	if (rc < 0)
		return PVX_FAIL("seccomp");
	if (!(flags & SECCOMP_FILTER_FLAG_NEW_LISTENER))
		return 0;
	if (pvx_send(PVX_MSG_FD, PVX_FD_SECCOMP, (int)rc))
		return -1;
	close((int)rc);
	return 0;
}
