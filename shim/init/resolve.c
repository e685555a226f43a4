/* Paths inside a root filesystem that somebody else controls: every step is taken by the kernel
 * with openat2, and what was looked at is what is used, as a descriptor. */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "kernel.h"
#include "pvx.h"

/* As in the kernel (MAXSYMLINKS). */
#define MAX_LINKS 40

static int open_in(int dir, const char *path, int flags, uint64_t resolve)
{
	int fd, tries = 64;

	/* EAGAIN: something was renamed meanwhile, the kernel cannot tell whether inside the root. */
	do
		fd = pvx_openat2(dir, path, flags, 0, resolve);
	while (fd < 0 && (errno == EAGAIN || errno == EINTR) && --tries);
	return fd;
}

int pvx_open(const char *path, int flags, uint64_t resolve)
{
	return open_in(pvx.root, path, flags, resolve | RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

/* Opens the longest prefix of path[0..*len) that is an existing directory; *len becomes its
 * length. */
static int open_prefix(char *path, size_t *len)
{
	int fd;

	do {
		char saved;

		while (*len && path[*len - 1] == '/')
			--*len;
		while (*len && path[*len - 1] != '/')
			--*len;
		saved = path[*len];
		path[*len] = 0;
		fd = pvx_open(*len ? path : "/", O_PATH | O_DIRECTORY, 0);
		path[*len] = saved;
	} while (fd < 0 && errno == ENOENT && *len);
	return fd;
}

/* Replaces path[start..end), which is a symlink in dir, by its target. */
static int expand_link(int dir, const char *name, char *path, size_t start, size_t end)
{
	char target[PATH_MAX], rest[PATH_MAX];
	ssize_t n = readlinkat(dir, name, target, sizeof target);
	size_t tail = strlen(path + end);

	if (n <= 0 || n == (ssize_t)sizeof target)
		return -1;
	if (target[0] == '/')
		start = 0;
	if (start + (size_t)n + tail >= PATH_MAX) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(rest, path + end, tail + 1);
	memcpy(path + start, target, (size_t)n);
	memcpy(path + start + (size_t)n, rest, tail + 1);
	return 0;
}

/* Makes one component below dir and opens it, a symlink as itself. */
static int make_component(int dir, const char *name, int directory, int *made)
{
	int fd = -1, rc;

	if (directory)
		rc = mkdirat(dir, name, 0755);
	else
		rc = fd = openat(dir, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd >= 0)
		close(fd);
	if (rc >= 0)
		*made = 1;
	else if (errno != EEXIST)
		return -1;
	return openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

/* Makes what is missing of path below dir, the directory path[0..pos). Returns the descriptor, or
 * -1; -2 when a symlink was expanded and all must start again. Consumes dir. */
static int make_rest(int dir, char *path, size_t pos, int directory, int *made)
{
	for (;;) {
		char name[NAME_MAX + 1];
		size_t end, after;
		struct stat st;
		int next, rc;

		while (path[pos] == '/')
			pos++;
		if (!path[pos])
			return dir;
		end = pos + strcspn(path + pos, "/");
		after = end + strspn(path + end, "/");
		if (end - pos > NAME_MAX) {
			close(dir);
			errno = ENAMETOOLONG;
			return -1;
		}
		memcpy(name, path + pos, end - pos);
		name[end - pos] = 0;
		if (!strcmp(name, "..")) {
			/* Behind a component that did not exist; nobody means that. */
			close(dir);
			errno = ENOENT;
			return -1;
		}
		next = strcmp(name, ".") ? make_component(dir, name, directory || path[after], made) : dup(dir);
		rc = next < 0 ? -1 : fstat(next, &st);
		if (!rc && S_ISLNK(st.st_mode))
			rc = expand_link(dir, name, path, pos, end) ? -1 : -2;
		close(dir);
		if (rc) {
			int saved = errno;

			if (next >= 0)
				close(next);
			errno = saved;
			return rc;
		}
		dir = next;
		pos = end;
	}
}

int pvx_make(const char *path, int directory, int *made)
{
	size_t len = strlen(path);
	char buf[PATH_MAX];
	int ignored;

	if (!made)
		made = &ignored;
	*made = 0;
	if (len >= sizeof buf) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(buf, path, len + 1);
	for (int links = 0; links < MAX_LINKS; links++) {
		int fd = pvx_open(buf, O_PATH, 0);

		if (fd >= 0 || errno != ENOENT)
			return fd;
		len = strlen(buf);
		fd = open_prefix(buf, &len);
		if (fd < 0)
			return -1;
		fd = make_rest(fd, buf, len, directory, made);
		if (fd != -2)
			return fd;
	}
	errno = ELOOP;
	return -1;
}

int pvx_make_parent(const char *path, const char **name)
{
	const char *slash = strrchr(path, '/');
	size_t len = slash ? (size_t)(slash - path) : 0;
	char buf[PATH_MAX];

	*name = slash ? slash + 1 : path;
	if (!**name || !strcmp(*name, ".") || !strcmp(*name, "..")) {
		errno = EINVAL;
		return -1;
	}
	if (len >= sizeof buf) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(buf, path, len);
	buf[len] = 0;
	return pvx_make(len ? buf : "/", 1, NULL);
}

int pvx_open_proc(void)
{
	struct statfs fs;
	struct stat st;
	int fd = open("/proc", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 || fstatfs(fd, &fs) || fstat(fd, &st))
		return PVX_FAIL("open /proc");
	if (fs.f_type != PVX_PROC_SUPER_MAGIC || st.st_ino != PVX_PROC_ROOT_INO) {
		close(fd);
		return pvx_fail(EXDEV, "/proc is not a procfs", NULL);
	}
	pvx.proc = fd;
	return 0;
}

int pvx_proc(const char *path, int flags)
{
	return open_in(pvx.proc, path, flags, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV);
}

int pvx_reopen(int fd, int flags)
{
	char path[32] = "self/fd/";

	strcat(path, pvx_number(fd));
	return openat(pvx.proc, path, flags | O_CLOEXEC);
}

int pvx_write(int fd, const char *buf, size_t len)
{
	ssize_t n;

	do
		n = write(fd, buf, len);
	while (n < 0 && errno == EINTR);
	if (n >= 0 && (size_t)n != len) {
		errno = EIO;
		return -1;
	}
	return n < 0 ? -1 : 0;
}
