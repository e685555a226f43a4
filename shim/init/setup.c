/* Setup of the container's namespaces, apart from mounts. */
#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kernel.h"
#include "pvx.h"

int pvx_op_fds(struct pvx_reader *r)
{
	uint32_t want = pvx_u32(r);

	while (pvx.nfds < want) {
		uint32_t rest = want - pvx.nfds;
		unsigned max = rest < PVX_MAX_FDS_MESSAGE ? rest : PVX_MAX_FDS_MESSAGE;
		int n = pvx_recv(PVX_MSG_FDS, pvx.fds + pvx.nfds, max);

		if (n < 0)
			return -1;
		if (n == 0)
			return pvx_fail(EPROTO, "a message without descriptors", NULL);
		pvx.nfds += (unsigned)n;
	}
	return 0;
}

int pvx_op_sync(struct pvx_reader *r)
{
	if (pvx_send(PVX_MSG_SYNC, pvx_u32(r), -1))
		return -1;
	return pvx_recv(PVX_MSG_GO, NULL, 0) < 0 ? -1 : 0;
}

int pvx_op_unshare_cgroup(struct pvx_reader *r)
{
	(void)r;
	return unshare(CLONE_NEWCGROUP) ? PVX_FAIL("unshare") : 0;
}

int pvx_op_setns(struct pvx_reader *r)
{
	int fd = pvx_fd(r);
	uint32_t kind = pvx_u32(r);

	if (setns(fd, (int)kind))
		return PVX_FAIL("setns");
	return kind & CLONE_NEWUSER ? pvx_become_root() : 0;
}

int pvx_op_loopback(struct pvx_reader *r)
{
	struct ifreq lo = { .ifr_name = "lo" };
	/* Any socket serves, and there may be no IPv4. */
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), rc = 0;

	(void)r;
	if (fd < 0)
		return PVX_FAIL("socket");
	if (ioctl(fd, SIOCGIFFLAGS, &lo)) {
		rc = PVX_FAIL("SIOCGIFFLAGS");
	} else {
		lo.ifr_flags = (short)(lo.ifr_flags | IFF_UP);
		if (ioctl(fd, SIOCSIFFLAGS, &lo))
			rc = PVX_FAIL("SIOCSIFFLAGS");
	}
	close(fd);
	return rc;
}

int pvx_op_hostname(struct pvx_reader *r)
{
	const char *name = pvx_str(r);

	return sethostname(name, strlen(name)) ? PVX_FAIL("sethostname") : 0;
}

int pvx_op_domainname(struct pvx_reader *r)
{
	const char *name = pvx_str(r);

	return setdomainname(name, strlen(name)) ? PVX_FAIL("setdomainname") : 0;
}

int pvx_op_sysctl(struct pvx_reader *r)
{
	const char *path = pvx_str(r), *value = pvx_str(r);
	int dir, fd = -1, rc;

	/* In two steps, so that the path cannot leave /proc/sys with "..". */
	dir = pvx_proc("sys", O_PATH | O_DIRECTORY);
	if (dir >= 0)
		fd = pvx_openat2(dir, path, O_WRONLY | O_NOCTTY, 0,
				 RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
	rc = fd < 0 ? PVX_FAIL("open /proc/sys/", path) : 0;
	if (!rc && pvx_write(fd, value, strlen(value)))
		rc = PVX_FAIL("write /proc/sys/", path);
	if (fd >= 0)
		close(fd);
	if (dir >= 0)
		close(dir);
	return rc;
}

static int write_offsets(const char *offsets)
{
	int fd = pvx_proc("self/timens_offsets", O_WRONLY), rc;

	rc = fd < 0 || pvx_write(fd, offsets, strlen(offsets)) ? PVX_FAIL("write timens_offsets") : 0;
	if (fd >= 0)
		close(fd);
	return rc;
}

int pvx_op_timens(struct pvx_reader *r)
{
	const char *offsets = pvx_str(r);
	int ns, rc;

	if (unshare(CLONE_NEWTIME))
		return PVX_FAIL("unshare");
	if (*offsets && write_offsets(offsets))
		return -1;
	/* unshare is for children only; the magic link is reached through a proved procfs, and setns
	 * proves that it is a time namespace. */
	ns = openat(pvx.proc, "self/ns/time_for_children", O_RDONLY | O_CLOEXEC);
	if (ns < 0)
		return PVX_FAIL("open the time namespace");
	rc = setns(ns, CLONE_NEWTIME) ? PVX_FAIL("setns") : 0;
	close(ns);
	return rc;
}
