/* Hiding and write-protecting parts of the container's filesystems. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kernel.h"
#include "pvx.h"

/* Opens what is to be covered. Below /proc the way starts at the proved procfs and follows no
 * link, so that a volume shared with another container cannot lead it elsewhere. Returns -1
 * without a message when there is nothing to cover, -2 on errors. */
static int open_covered(const char *path)
{
	int fd;

	if (!strncmp(path, "/proc/", 6) && path[6])
		fd = pvx_openat2(pvx.proc, path + 6, O_PATH, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	else
		fd = pvx_open(path, O_PATH, 0);
	if (fd >= 0)
		return fd;
	if (errno == ENOENT || errno == ENOTDIR)
		return -1;
	PVX_FAIL("open ", path);
	return -2;
}

/* Covers one more object with the mount at *source: the first use moves the detached mount there,
 * later ones clone it from where it is (a detached mount cannot be cloned before Linux 6.15). */
static int cover(int source, int *attached, int target, const char *path)
{
	int tree = source, rc;

	if (*attached) {
		tree = open_tree(source, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
		if (tree < 0)
			return PVX_FAIL("clone the mask for ", path);
	}
	rc = move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
	if (rc)
		PVX_FAIL("mount on ", path);
	if (*attached)
		close(tree);
	*attached = 1;
	return rc;
}

/* One empty directory serves for all masked ones. */
static int empty_directory(void)
{
	static int mnt = -1;
	int fs;

	if (mnt >= 0)
		return mnt;
	fs = fsopen("tmpfs", FSOPEN_CLOEXEC);
	if (fs < 0)
		return -1;
	if (!fsconfig(fs, FSCONFIG_SET_STRING, "source", "tmpfs", 0) &&
	    !fsconfig(fs, FSCONFIG_SET_STRING, "nr_inodes", "2", 0) &&
	    !fsconfig(fs, FSCONFIG_SET_STRING, "size", "4096", 0) &&
	    !fsconfig(fs, FSCONFIG_SET_STRING, "mode", "0755", 0) &&
	    !fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) && !fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		mnt = fsmount(fs, FSMOUNT_CLOEXEC,
			      MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	close(fs);
	return mnt;
}

int pvx_is_null(int fd)
{
	struct stat st;

	return !fstat(fd, &st) && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3);
}

int pvx_op_mask(struct pvx_reader *r)
{
	static int null_attached, empty_attached;
	int null = pvx_fd(r), empty, target, rc;
	const char *path = pvx_str(r);
	struct stat st;

	target = open_covered(path);
	if (target < 0)
		return target == -1 ? 0 : -1;
	if (fstat(target, &st)) {
		rc = PVX_FAIL("stat ", path);
	} else if (S_ISDIR(st.st_mode)) {
		empty = empty_directory();
		rc = empty < 0 ? PVX_FAIL("make an empty tmpfs") : cover(empty, &empty_attached, target, path);
	} else if (!pvx_is_null(null)) {
		rc = pvx_fail(EINVAL, "the mask is not the device null", NULL);
	} else {
		rc = cover(null, &null_attached, target, path);
	}
	close(target);
	return rc;
}

int pvx_op_readonly(struct pvx_reader *r)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };
	const char *path = pvx_str(r);
	int target = open_covered(path), tree, rc;

	if (target < 0)
		return target == -1 ? 0 : -1;
	tree = open_tree(target, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | AT_EMPTY_PATH);
	if (tree < 0)
		rc = PVX_FAIL("clone ", path);
	else if (mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr))
		rc = PVX_FAIL("change the mount on ", path);
	else if (move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH))
		rc = PVX_FAIL("mount on ", path);
	else
		rc = 0;
	if (tree >= 0)
		close(tree);
	close(target);
	return rc;
}

int pvx_op_root_attr(struct pvx_reader *r)
{
	struct mount_attr attr = { 0 };

	attr.attr_set = pvx_u64(r);
	attr.propagation = pvx_u64(r);
	return mount_setattr(AT_FDCWD, "/", 0, &attr, sizeof attr) ? PVX_FAIL("change the root mount") : 0;
}

int pvx_op_unmount(struct pvx_reader *r)
{
	const char *path = pvx_str(r);

	if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) && errno != EINVAL && errno != ENOENT)
		return PVX_FAIL("unmount ", path);
	return 0;
}
