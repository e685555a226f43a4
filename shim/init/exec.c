/* The end of pvelxc-init: working directory, environment, execve. */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel.h"
#include "pvx.h"

const char *pvx_home;

/* Sets pvx_home; the shortest valid one is "/". */
static void set_home(const char *dir, size_t len)
{
	static char home[5 + PATH_MAX] = "HOME=";

	if (!len || len >= PATH_MAX)
		dir = "/", len = 1;
	memcpy(home + 5, dir, len);
	home[5 + len] = 0;
	pvx_home = home;
}

/* Finds the n-th colon-separated field of line; *len is its length. */
static const char *field(const char *line, unsigned n, size_t *len)
{
	while (n--) {
		line = strchr(line, ':');
		if (!line)
			return NULL;
		line++;
	}
	*len = strcspn(line, ":");
	return line;
}

/* Takes the home directory from a line of passwd(5) that is of the user. */
static int match_user(const char *line, const char *uid)
{
	size_t len;
	const char *f = field(line, 2, &len);

	if (!f || len != strlen(uid) || memcmp(f, uid, len))
		return 0;
	f = field(line, 5, &len);
	if (f)
		set_home(f, len);
	return 1;
}

int pvx_op_home(struct pvx_reader *r)
{
	const char *uid = pvx_number((long)pvx_u32(r));
	int fd, skip = 0; /* the rest of an overlong line */
	size_t have = 0;
	char buf[8192];
	struct stat st;
	ssize_t n;

	set_home("/", 1);
	/* Not blocking, should it be a FIFO. Without the file there is no other home. */
	fd = pvx_open("/etc/passwd", O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	if (fd < 0)
		return 0;
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		close(fd);
		return 0;
	}
	while ((n = read(fd, buf + have, sizeof buf - 1 - have)) > 0) {
		char *line = buf, *end;

		have += (size_t)n;
		buf[have] = 0;
		while ((end = memchr(line, '\n', have - (size_t)(line - buf)))) {
			*end = 0;
			if (!skip && match_user(line, uid))
				goto out;
			skip = 0;
			line = end + 1;
		}
		have -= (size_t)(line - buf);
		memmove(buf, line, have);
		if (have == sizeof buf - 1)
			have = 0, skip = 1;
	}
	buf[have] = 0;
	if (have && !skip)
		match_user(buf, uid);
out:
	close(fd);
	return 0;
}

int pvx_op_ready(struct pvx_reader *r)
{
	int p[2];

	(void)r;
	if (pipe2(p, O_CLOEXEC))
		return PVX_FAIL("pipe");
	if (pvx_send(PVX_MSG_FD, PVX_FD_EXEC, p[0]))
		return -1;
	close(p[0]);
	pvx.exec_pipe = p[1];
	return 0;
}

int pvx_op_cwd(struct pvx_reader *r)
{
	static int done;
	const char *path = pvx_str(r);
	uint32_t early = pvx_u32(r);
	char buf[PATH_MAX];

	if (done)
		return 0;
	if (chdir(path)) {
		if (early && (errno == EACCES || errno == EPERM))
			return 0;
		return PVX_FAIL("chdir to ", path);
	}
	/* A directory outside the root shows as "(unreachable)/…" */
	if (syscall(SYS_getcwd, buf, sizeof buf) < 0)
		return PVX_FAIL("getcwd");
	if (buf[0] != '/')
		return pvx_fail(EPERM, path, " lies outside of the container's root", NULL);
	done = 1;
	return 0;
}

/* The next candidate along PATH for a name without a slash, in buf. Returns what is left of the
 * list, NULL when there was none. */
static const char *next_candidate(const char *list, const char *name, char buf[static PATH_MAX + NAME_MAX])
{
	size_t dir, len = strlen(name);

	if (!list || len > NAME_MAX - 2)
		return NULL;
	for (;;) {
		dir = strcspn(list, ":");
		if (dir < PATH_MAX)
			break;
		if (!list[dir])
			return NULL;
		list += dir + 1;
	}
	if (dir)
		memcpy(buf, list, dir);
	else
		buf[dir++] = '.'; /* an empty entry is the working directory */
	buf[dir] = '/';
	memcpy(buf + dir + 1, name, len + 1);
	list += strcspn(list, ":");
	return *list ? list + 1 : "";
}

/* Calls try with each path that name may stand for, until one does not fail with "not here". try
 * returns 0 or an errno; so does this. */
static int along_path(const char *name, const char *list, int (*try)(const char *path, void *arg), void *arg)
{
	char buf[PATH_MAX + NAME_MAX];
	int err = ENOENT;

	if (!*name)
		return ENOENT;
	if (strchr(name, '/'))
		return try(name, arg);
	if (!*list)
		return ENOENT;
	while (*list) {
		int e;

		list = next_candidate(list, name, buf);
		if (!list)
			break;
		e = try(buf, arg);
		switch (e) {
		case EACCES:
			err = EACCES; /* remembered, should nothing better come */
			break;
		case ENOENT:
		case ENOTDIR:
		case ELOOP:
		case ESTALE:
			break;
		default:
			return e;
		}
	}
	return err;
}

static int look(const char *path, void *arg)
{
	const char *cwd = arg;
	char full[2 * PATH_MAX + NAME_MAX];
	struct stat st;

	full[0] = 0;
	if (*path != '/') {
		if (strlen(cwd) + strlen(path) + 2 > sizeof full)
			return ENAMETOOLONG;
		strcat(strcpy(full, cwd), "/");
	} else if (strlen(path) + 1 > sizeof full) {
		return ENAMETOOLONG;
	}
	strcat(full, path);
	if (stat(full, &st))
		/* Root without permission (NFS): the user may have it. */
		return errno == EACCES || errno == EPERM ? 0 : errno;
	return S_ISREG(st.st_mode) && st.st_mode & 0111 ? 0 : EACCES;
}

static int fail_exec(int err, const char *name)
{
	if (err == ENOENT && !strchr(name, '/'))
		return pvx_fail(err, "executable file not found in $PATH", NULL);
	return pvx_fail(err, name, NULL);
}

int pvx_op_lookpath(struct pvx_reader *r)
{
	const char *name = pvx_str(r), *list = pvx_str(r), *cwd = pvx_str(r);
	int err = along_path(name, list, look, (void *)(uintptr_t)cwd);

	return err ? fail_exec(err, name) : 0;
}

static const char **argv, **envp;

static int become(const char *path, void *arg)
{
	(void)arg;
	execve(path, (char **)(uintptr_t)argv, (char **)(uintptr_t)envp);
	return errno;
}

int pvx_op_exec(struct pvx_reader *r)
{
	/* Only what is used of it becomes memory. */
	static const char *strings[1 << 18];
	const size_t room = sizeof strings / sizeof strings[0] - 1; /* one more for HOME */
	const char *path = "";
	size_t n;

	argv = strings;
	if (pvx_strings(r, argv, room))
		return -1;
	for (n = 0; argv[n]; n++)
		;
	envp = argv + n + 1;
	if (pvx_strings(r, envp, room - n - 1))
		return -1;
	if (!argv[0])
		return pvx_fail(EINVAL, "no arguments", NULL);
	for (n = 0; envp[n]; n++)
		if (!strncmp(envp[n], "PATH=", 5))
			path = envp[n] + 5;
	if (pvx_home) {
		envp[n] = pvx_home;
		envp[n + 1] = NULL;
	}
	return fail_exec(along_path(argv[0], path, become, NULL), argv[0]);
}
