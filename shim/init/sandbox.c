/* The namespaces that the containers of a pod share, and their PID 1. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kernel.h"
#include "pvx.h"

int pvx_op_unshare(struct pvx_reader *r)
{
	uint32_t kinds = pvx_u32(r);

	if (unshare((int)kinds))
		return PVX_FAIL("unshare");
	/* A PID namespace is for children, and its first process is its PID 1. */
	return kinds & CLONE_NEWPID ? pvx_become_child(-1) : 0;
}

/* The containers' processes see PID 1, and with CAP_SYS_PTRACE what it sees: that must not be the
 * host. */
int pvx_op_empty_root(struct pvx_reader *r)
{
	const char *place = "/proc"; /* which every host has */

	(void)r;
	if (unshare(CLONE_NEWNS))
		return PVX_FAIL("unshare the mount namespace");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return PVX_FAIL("make all mounts private");
	if (mount("none", place, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "mode=555,size=4k"))
		return PVX_FAIL("mount an empty root");
	if (chdir(place) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
		return PVX_FAIL("change to the empty root");
	return 0;
}

int pvx_op_hold(struct pvx_reader *r)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	char byte;
	ssize_t n;

	(void)r;
	/* Whose SIGCHLD is ignored leaves no zombies (wait(2)), orphans of the pod's included. */
	if (sigaction(SIGCHLD, &ignore, NULL))
		return PVX_FAIL("ignore SIGCHLD");
	syscall(SYS_close_range, 3, (unsigned)pvx.sock - 1, 0);
	syscall(SYS_close_range, (unsigned)pvx.sock + 1, ~0u, 0);
	pvx.proc = pvx.root = -1;
	if (pvx_send(PVX_MSG_DONE, 0, -1))
		return -1;
	do
		n = recv(pvx.sock, &byte, sizeof byte, 0);
	while (n > 0 || (n < 0 && errno == EINTR));
	_exit(0);
}
