/* The mount hook: filesystems, trees and device nodes below the container's root. */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kernel.h"
#include "pvx.h"

int pvx_op_root(struct pvx_reader *r)
{
	const char *path = pvx_str(r);

	pvx.root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return pvx.root < 0 ? PVX_FAIL("open ", path) : 0;
}

static int below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return !strncmp(path, dir, n) && (path[n] == '/' || !path[n]);
}

/* Opens the mountpoint, making it where it is missing. Symlinks of the image may lead anywhere
 * inside the root, but not to where the kernel's interfaces are: what is mounted on /proc and
 * /sys must be exactly there, and nothing else may be mounted inside of /proc. */
static int open_destination(const char *dest, int directory, int *made)
{
	int fd = pvx_make(dest, directory, made);
	struct statfs fs;
	struct stat st;

	if (fd >= 0 && (below(dest, "/proc") || below(dest, "/sys"))) {
		close(fd);
		fd = pvx_open(dest, O_PATH, RESOLVE_NO_SYMLINKS);
	} else if (fd >= 0 && (fstatfs(fd, &fs) || fs.f_type == PVX_PROC_SUPER_MAGIC)) {
		close(fd);
		return pvx_fail(EPERM, "a symlink of the image leads ", dest, " into /proc", NULL);
	}
	if (fd < 0 || fstat(fd, &st))
		return PVX_FAIL("open ", dest);
	if (S_ISDIR(st.st_mode) == !!directory)
		return fd;
	close(fd);
	if (directory)
		return pvx_fail(ENOTDIR, dest, " is not a directory, but what is mounted there is", NULL);
	return pvx_fail(EISDIR, dest, " is a directory, but what is mounted there is not", NULL);
}

static int attach(int tree, int destination, const char *dest)
{
	if (move_mount(tree, "", destination, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH))
		return PVX_FAIL("mount on ", dest);
	return 0;
}

/* Fails with what the filesystem has to say, or else with what. */
static int fail_with_log(int fs, const char *what, const char *value)
{
	char log[PVX_MAX_TEXT / 2];
	int err = errno;
	size_t len = 0;
	ssize_t n;

	/* One message per read: "e text" for errors, "w" and "i" for lesser ones. */
	while (len + 3 < sizeof log && (n = read(fs, log + len, sizeof log - len - 3)) > 0) {
		size_t skip = n > 2 && log[len + 1] == ' ' ? 2 : 0;

		memmove(log + len, log + len + skip, (size_t)n - skip);
		len += (size_t)n - skip;
		while (len && log[len - 1] == '\n')
			len--;
		log[len++] = ';';
		log[len++] = ' ';
	}
	if (len < 2)
		return pvx_fail(err, what, value, NULL);
	log[len - 2] = 0;
	return pvx_fail(err, what, value, ": ", log, NULL);
}

static int set_params(int fs, struct pvx_reader *params, uint32_t n)
{
	while (n--) {
		uint32_t flag = pvx_u32(params);
		const char *key = pvx_str(params), *value = pvx_str(params);
		int rc;

		if (flag)
			rc = fsconfig(fs, FSCONFIG_SET_FLAG, key, NULL, 0);
		else
			rc = fsconfig(fs, FSCONFIG_SET_STRING, key, value, 0);
		if (rc)
			return fail_with_log(fs, "set the option ", key);
	}
	return 0;
}

static int configure(int fs, const char *source, struct pvx_reader *params, uint32_t n)
{
	if (*source && fsconfig(fs, FSCONFIG_SET_STRING, "source", source, 0))
		return fail_with_log(fs, "set the source ", source);
	if (set_params(fs, params, n))
		return -1;
	if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		return fail_with_log(fs, "create the filesystem", "");
	return 0;
}

int pvx_op_mount_fs(struct pvx_reader *r)
{
	const char *type = pvx_str(r), *source = pvx_str(r), *dest = pvx_str(r);
	uint32_t nparams = pvx_u32(r), flags;
	int fs, mnt = -1, destination = -1, made, rc = -1;
	struct pvx_reader params = *r;
	struct stat st;
	uint64_t attr;

	for (uint32_t i = 0; i < nparams; i++) {
		pvx_u32(r);
		pvx_str(r);
		pvx_str(r);
	}
	attr = pvx_u64(r);
	flags = pvx_u32(r);

	fs = fsopen(type, FSOPEN_CLOEXEC);
	if (fs < 0)
		return PVX_FAIL("open filesystem type ", type);
	if (configure(fs, source, &params, nparams))
		goto out;
	mnt = fsmount(fs, FSMOUNT_CLOEXEC, (unsigned)attr);
	if (mnt < 0) {
		fail_with_log(fs, "make the mount", "");
		goto out;
	}
	destination = open_destination(dest, 1, &made);
	if (destination < 0)
		goto out;
	if (flags & PVX_FS_KEEP_MODE && !made &&
	    (fstat(destination, &st) || fchmodat(mnt, ".", st.st_mode & 07777, 0))) {
		PVX_FAIL("set the mode of ", dest);
		goto out;
	}
	if (flags & PVX_FS_COPY_UP && pvx_copy_up(destination, mnt))
		goto out;
	rc = attach(mnt, destination, dest);
out:
	close(fs);
	if (mnt >= 0)
		close(mnt);
	if (destination >= 0)
		close(destination);
	return rc;
}

int pvx_op_configure(struct pvx_reader *r)
{
	const char *dest = pvx_str(r);
	int fd, fs = -1, rc = -1;

	/* A symlink may lead to a filesystem of the host's that is bound in: its parameters are not
	 * the container's to change. */
	fd = pvx_open(dest, O_PATH, RESOLVE_NO_SYMLINKS);
	if (fd >= 0)
		fs = fspick(fd, "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH | FSPICK_NO_AUTOMOUNT);
	if (fs < 0)
		PVX_FAIL("open the filesystem at ", dest);
	else if (!set_params(fs, r, pvx_u32(r)))
		rc = fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) ? fail_with_log(fs, "change the filesystem at ", dest) : 0;
	if (fs >= 0)
		close(fs);
	if (fd >= 0)
		close(fd);
	return rc;
}

static int set_attr(int fd, unsigned flags, struct mount_attr attr, const char *dest)
{
	if (mount_setattr(fd, "", AT_EMPTY_PATH | flags, &attr, sizeof attr))
		return PVX_FAIL("change the mount on ", dest);
	return 0;
}

int pvx_op_mount_tree(struct pvx_reader *r)
{
	int tree = pvx_fd(r), destination, rc;
	const char *dest = pvx_str(r);
	uint64_t propagation = pvx_u64(r);
	uint32_t recursive = pvx_u32(r);
	struct stat st;

	if (fstat(tree, &st))
		return PVX_FAIL("stat the tree for ", dest);
	if (propagation && set_attr(tree, recursive ? AT_RECURSIVE : 0,
				    (struct mount_attr){ .propagation = propagation }, dest))
		return -1;
	destination = open_destination(dest, S_ISDIR(st.st_mode), NULL);
	if (destination < 0)
		return -1;
	rc = attach(tree, destination, dest);
	close(destination);
	return rc;
}

int pvx_op_attr(struct pvx_reader *r)
{
	const char *dest = pvx_str(r);
	struct mount_attr attr = { 0 };
	uint32_t recursive;
	int fd, rc;

	attr.attr_set = pvx_u64(r);
	attr.attr_clr = pvx_u64(r);
	attr.propagation = pvx_u64(r);
	recursive = pvx_u32(r);
	fd = pvx_open(dest, O_PATH, 0);
	if (fd < 0)
		return PVX_FAIL("open ", dest);
	rc = set_attr(fd, recursive ? AT_RECURSIVE : 0, attr, dest);
	close(fd);
	return rc;
}

/* Tells whether name already is the node that is asked for. */
static int same_node(int dir, const char *name, mode_t mode, dev_t dev)
{
	struct stat st;

	return !fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) && (st.st_mode & S_IFMT) == (mode & S_IFMT) &&
	       (S_ISFIFO(mode) || st.st_rdev == dev);
}

int pvx_op_mknod(struct pvx_reader *r)
{
	const char *path = pvx_str(r), *name;
	mode_t mode = pvx_u32(r), old;
	uint32_t major = pvx_u32(r), minor = pvx_u32(r);
	uid_t uid = pvx_u32(r);
	gid_t gid = pvx_u32(r);
	dev_t dev = makedev(major, minor);
	int dir, fd = -1, rc;

	dir = pvx_make_parent(path, &name);
	if (dir < 0)
		return PVX_FAIL("open the directory of ", path);
	old = umask(0);
	rc = mknodat(dir, name, mode, dev);
	umask(old);
	if (rc && errno == EEXIST && same_node(dir, name, mode, dev))
		rc = 0;
	else if (rc)
		PVX_FAIL("mknod ", path);
	else if (uid || gid) {
		/* By descriptor: the name may be another file's by now. */
		fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		rc = fd < 0 || fchownat(fd, "", uid, gid, AT_EMPTY_PATH) ? PVX_FAIL("chown ", path) : 0;
	}
	if (fd >= 0)
		close(fd);
	close(dir);
	return rc;
}

int pvx_op_symlink(struct pvx_reader *r)
{
	const char *target = pvx_str(r), *path = pvx_str(r), *name;
	int dir = pvx_make_parent(path, &name), rc;

	if (dir < 0)
		return PVX_FAIL("open the directory of ", path);
	rc = symlinkat(target, dir, name) && errno != EEXIST ? PVX_FAIL("symlink ", path) : 0;
	close(dir);
	return rc;
}

int pvx_op_mkdir(struct pvx_reader *r)
{
	const char *path = pvx_str(r);
	mode_t mode = pvx_u32(r);
	int made, fd = pvx_make(path, 1, &made), rc = 0;

	if (fd < 0)
		return PVX_FAIL("mkdir ", path);
	if (made && mode != 0755 && fchmodat(fd, ".", mode, 0))
		rc = PVX_FAIL("chmod ", path);
	close(fd);
	return rc;
}
