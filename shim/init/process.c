/* Attributes of the process that is to come. */
#include <errno.h>
#include <linux/keyctl.h>
#include <signal.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel.h"
#include "pvx.h"

int pvx_op_keyring(struct pvx_reader *r)
{
	/* What a new keyring has (KEY_POS_ALL, KEY_USR_VIEW, _READ, _LINK) and KEY_USR_SEARCH, so that
	 * the container's user finds keys in it. */
	const unsigned perm = 0x3f1b0000;
	long key = syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, pvx_str(r));

	if (key < 0)
		return errno == ENOSYS ? 0 : PVX_FAIL("join a session keyring");
	return syscall(SYS_keyctl, KEYCTL_SETPERM, key, perm) ? PVX_FAIL("set the keyring's permissions") : 0;
}

int pvx_op_personality(struct pvx_reader *r)
{
	return personality((unsigned long)pvx_u64(r)) < 0 ? PVX_FAIL("personality") : 0;
}

int pvx_op_rlimit(struct pvx_reader *r)
{
	uint32_t resource = pvx_u32(r);
	uint64_t lim[2], old[2], hard;
	uint32_t raise;

	lim[0] = pvx_u64(r);
	lim[1] = hard = pvx_u64(r);
	raise = pvx_u32(r);
	if (raise) {
		if (syscall(SYS_prlimit64, 0, resource, NULL, old))
			return PVX_FAIL("prlimit");
		if (old[1] >= hard)
			return 0;
		lim[0] = old[0];
	}
	return syscall(SYS_prlimit64, 0, resource, lim, NULL) ? PVX_FAIL("prlimit") : 0;
}

int pvx_op_sched(struct pvx_reader *r)
{
	struct { /* struct sched_attr */
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attr = { .size = sizeof attr };

	attr.policy = pvx_u32(r);
	attr.flags = pvx_u64(r);
	attr.nice = (int32_t)pvx_u32(r);
	attr.priority = pvx_u32(r);
	attr.runtime = pvx_u64(r);
	attr.deadline = pvx_u64(r);
	attr.period = pvx_u64(r);
	return syscall(SYS_sched_setattr, 0, &attr, 0) ? PVX_FAIL("sched_setattr") : 0;
}

int pvx_op_ioprio(struct pvx_reader *r)
{
	const int who_process = 1; /* IOPRIO_WHO_PROCESS */

	return syscall(SYS_ioprio_set, who_process, 0, pvx_u32(r)) ? PVX_FAIL("ioprio_set") : 0;
}

int pvx_op_mempolicy(struct pvx_reader *r)
{
	/* Words of the kernel's largest node mask (CONFIG_NODES_SHIFT 10), with room. */
	unsigned long mask[64] = { 0 };
	uint32_t mode = pvx_u32(r), n = pvx_u32(r);

	_Static_assert(sizeof mask[0] == sizeof(uint64_t), "64-bit only");
	if (n > sizeof mask / sizeof mask[0])
		return pvx_fail(EINVAL, "node mask", NULL);
	for (uint32_t i = 0; i < n; i++)
		mask[i] = pvx_u64(r);
	/* The kernel takes one off the number of bits. */
	if (syscall(SYS_set_mempolicy, mode, n ? mask : NULL, n ? n * 64 + 1 : 0))
		return PVX_FAIL("set_mempolicy");
	return 0;
}

int pvx_op_umask(struct pvx_reader *r)
{
	umask(pvx_u32(r) & 0777);
	return 0;
}

static int write_attribute(const char *path, const char *value, size_t len)
{
	int fd = pvx_proc(path, O_WRONLY), rc;

	if (fd < 0)
		return PVX_FAIL("open /proc/", path);
	rc = pvx_write(fd, value, len) ? PVX_FAIL("write /proc/", path) : 0;
	close(fd);
	return rc;
}

int pvx_op_lsm(struct pvx_reader *r)
{
	uint32_t kind = pvx_u32(r);
	const char *label = pvx_str(r);
	char value[4096] = "exec ";
	const size_t prefix = strlen(value);
	size_t len = strlen(label);
	int fd;

	if (len + prefix >= sizeof value)
		return pvx_fail(ENAMETOOLONG, "label", NULL);
	if (kind == PVX_LSM_SELINUX)
		return write_attribute("thread-self/attr/exec", label, len);
	memcpy(value + prefix, label, len + 1);
	/* The interface of its own came with Linux 5.8; the common one is the first LSM's. */
	fd = pvx_proc("thread-self/attr/apparmor/exec", O_PATH);
	if (fd < 0)
		return write_attribute("thread-self/attr/exec", value, prefix + len);
	close(fd);
	return write_attribute("thread-self/attr/apparmor/exec", value, prefix + len);
}

int pvx_op_nnp(struct pvx_reader *r)
{
	(void)r;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? PVX_FAIL("no_new_privs") : 0;
}

/* Puts the container's own /dev/null in the place of one that was opened on the host: a descriptor
 * of the host's mount is a way to its other files (open_by_handle_at), and what cannot be reached
 * from the container's mounts cannot be checkpointed. A container without one keeps it. */
static int own_null(int fd)
{
	int path, own, rc;

	if (!pvx_is_null(fd))
		return 0;
	path = pvx_open("/dev/null", O_PATH, 0);
	if (path < 0)
		return 0;
	own = pvx_is_null(path) ? pvx_reopen(path, O_RDWR | O_NOCTTY) : -1;
	rc = own >= 0 && dup2(own, fd) < 0 ? PVX_FAIL("dup2") : 0;
	if (own >= 0)
		close(own);
	close(path);
	return rc;
}

int pvx_op_stdio_owner(struct pvx_reader *r)
{
	uid_t uid = pvx_u32(r);

	for (int fd = 0; fd < 3; fd++)
		if (own_null(fd))
			return -1;
	for (int fd = 0; fd < 3; fd++) {
		struct stat st;

		/* A closed one is no error, a device such as /dev/null is everybody's. */
		if (fstat(fd, &st) || st.st_uid == uid)
			continue;
		if (!S_ISFIFO(st.st_mode) && !S_ISSOCK(st.st_mode) && !isatty(fd))
			continue;
		if (fchown(fd, uid, (gid_t)-1) && errno != EPERM && errno != EROFS && errno != EINVAL)
			return PVX_FAIL("chown stdio");
	}
	return 0;
}

void pvx_reset_signals(void)
{
	struct { /* the kernel's struct sigaction: the library's hides signals 32 and 33 */
		void *handler;
		unsigned long flags;
		void *restorer;
		uint64_t mask;
	} dfl = { 0 };

	for (int sig = 1; sig <= 64; sig++)
		syscall(SYS_rt_sigaction, sig, &dfl, NULL, sizeof dfl.mask); /* not KILL, not STOP */
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &dfl.mask, NULL, sizeof dfl.mask);
}

int pvx_op_signals(struct pvx_reader *r)
{
	uint32_t pdeath = pvx_u32(r);

	pvx_reset_signals();
	return prctl(PR_SET_PDEATHSIG, pdeath, 0, 0, 0) ? PVX_FAIL("set the parent-death signal") : 0;
}
