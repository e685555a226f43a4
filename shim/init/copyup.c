/* tmpcopyup: what the image has at the destination of a tmpfs is copied into it. */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel.h"
#include "pvx.h"

/* Directories nest this deep at most; each level takes two descriptors and a buffer. */
#define MAX_DEPTH 48

/* struct linux_dirent64 of getdents64(2) */
struct entry {
	uint64_t ino;
	int64_t off;
	uint16_t len;
	uint8_t type;
	char name[];
};

static int copy_directory(int from, int to, int depth);

/* Owner, mode and times of the source; the owner first, since chown clears set-id bits. */
static int copy_attributes(int to, const char *name, const struct stat *st)
{
	struct timespec times[2] = { st->st_atim, st->st_mtim };

	if (fchownat(to, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW))
		return -1;
	if (!S_ISLNK(st->st_mode) && fchmodat(to, name, st->st_mode & 07777, 0))
		return -1;
	return utimensat(to, name, times, AT_SYMLINK_NOFOLLOW);
}

static int copy_file(int from, int to, const char *name, const struct stat *st)
{
	int in, out = -1, rc = -1;
	ssize_t n = 1;

	in = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (in >= 0)
		out = openat(to, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	if (out >= 0) {
		for (off_t left = st->st_size; left > 0 && n > 0; left -= n)
			n = sendfile(out, in, NULL, left > 1 << 30 ? 1 << 30 : (size_t)left);
		rc = n < 0 ? -1 : 0;
	}
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	return rc;
}

static int copy_link(int from, int to, const char *name)
{
	char target[4096];
	ssize_t n = readlinkat(from, name, target, sizeof target - 1);

	if (n < 0)
		return -1;
	target[n] = 0;
	return symlinkat(target, to, name);
}

static int copy_subdirectory(int from, int to, const char *name, int depth)
{
	int in, out = -1, rc = -1;

	if (mkdirat(to, name, 0700))
		return -1;
	in = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (in >= 0)
		out = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (out >= 0)
		rc = copy_directory(in, out, depth + 1);
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	return rc;
}

static int copy_entry(int from, int to, const char *name, int depth)
{
	struct stat st;
	int rc;

	if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW))
		return -1;
	if (S_ISDIR(st.st_mode))
		rc = copy_subdirectory(from, to, name, depth);
	else if (S_ISREG(st.st_mode))
		rc = copy_file(from, to, name, &st);
	else if (S_ISLNK(st.st_mode))
		rc = copy_link(from, to, name);
	else
		return 0; /* as runc: nodes and sockets of an image are not copied */
	return rc ? -1 : copy_attributes(to, name, &st);
}

static int copy_directory(int from, int to, int depth)
{
	_Alignas(struct entry) char buf[4096];
	long n;

	if (depth == MAX_DEPTH) {
		errno = ELOOP;
		return -1;
	}
	while ((n = syscall(SYS_getdents64, from, buf, sizeof buf)) > 0) {
		for (long at = 0; at < n;) {
			struct entry *e = (void *)(buf + at);

			at += e->len;
			if (!strcmp(e->name, ".") || !strcmp(e->name, ".."))
				continue;
			if (copy_entry(from, to, e->name, depth))
				return -1;
		}
	}
	return n < 0 ? -1 : 0;
}

int pvx_copy_up(int from, int to)
{
	int in = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc;

	rc = in < 0 ? -1 : copy_directory(in, to, 0);
	if (rc)
		PVX_FAIL("copy the destination's files up");
	if (in >= 0)
		close(in);
	return rc;
}
