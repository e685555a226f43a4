/* The process's pseudoterminal, from the container's own devpts. */
#include <errno.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#include "kernel.h"
#include "pvx.h"

/* The node must be the real one before it is opened for more than looking: the image may have
 * anything at that name. */
static int open_multiplexer(void)
{
	int path = pvx_open("/dev/pts/ptmx", O_PATH, 0), fd;
	struct stat st;

	if (path < 0 && errno == ENOENT)
		path = pvx_open("/dev/ptmx", O_PATH, 0);
	if (path < 0 || fstat(path, &st))
		return PVX_FAIL("open /dev/pts/ptmx");
	if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(5, 2)) {
		close(path);
		return pvx_fail(ENOTTY, "/dev/ptmx of the container is not a terminal multiplexer", NULL);
	}
	fd = pvx_reopen(path, O_RDWR | O_NOCTTY);
	if (fd < 0)
		PVX_FAIL("open /dev/pts/ptmx");
	close(path);
	return fd;
}

static int open_peer(int master)
{
	int unlock = 0, fd;
	struct statfs fs;

	if (ioctl(master, TIOCSPTLCK, &unlock))
		return PVX_FAIL("unlock the terminal");
	fd = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return PVX_FAIL("open the terminal");
	if (fstatfs(fd, &fs) || fs.f_type != PVX_DEVPTS_SUPER_MAGIC) {
		close(fd);
		return pvx_fail(ENOTTY, "the terminal is not on a devpts", NULL);
	}
	return fd;
}

/* From descriptor to descriptor, so that no name can be exchanged in between (CVE-2025-52565). */
static int bind_console(int terminal)
{
	int tree, target, rc;

	target = pvx_make("/dev/console", 0, NULL);
	if (target >= 0) {
		close(target);
		target = pvx_open("/dev/console", O_PATH, RESOLVE_NO_SYMLINKS);
	}
	if (target < 0)
		return PVX_FAIL("open /dev/console");
	tree = open_tree(terminal, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	rc = tree < 0 || move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
		     ? PVX_FAIL("bind /dev/console") : 0;
	if (tree >= 0)
		close(tree);
	close(target);
	return rc;
}

/* Makes it stdin, stdout, stderr and the controlling terminal. */
static int take(int terminal)
{
	(void)setsid(); /* fails when this is a session's leader already */
	for (int fd = 0; fd < 3; fd++)
		if (dup2(terminal, fd) < 0)
			return PVX_FAIL("dup2");
	return ioctl(0, TIOCSCTTY, 0) ? PVX_FAIL("set the controlling terminal") : 0;
}

int pvx_op_terminal(struct pvx_reader *r)
{
	uint32_t rows = pvx_u32(r), columns = pvx_u32(r), uid = pvx_u32(r), console = pvx_u32(r);
	struct winsize size = { .ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns };
	int master = open_multiplexer(), terminal, rc = -1;

	if (master < 0)
		return -1;
	terminal = open_peer(master);
	if (terminal < 0)
		goto out;
	if ((rows || columns) && ioctl(terminal, TIOCSWINSZ, &size)) {
		PVX_FAIL("set the terminal's size");
		goto out;
	}
	/* The group stays: it is the one that the devpts mount gives (tty). */
	if (fchown(terminal, uid, (gid_t)-1) && errno != EPERM && errno != EROFS && errno != EINVAL) {
		PVX_FAIL("chown the terminal");
		goto out;
	}
	if ((!console || !bind_console(terminal)) && !pvx_send(PVX_MSG_FD, PVX_FD_CONSOLE, master))
		rc = take(terminal);
out:
	if (terminal > 2)
		close(terminal);
	close(master);
	return rc;
}
