/* OCI hooks (config.md#posix-platform-hooks). */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kernel.h"
#include "pvx.h"

struct hook {
	const char *path;
	const char **args, **env;
	int input;
};

/* The last that the hook has printed. */
struct tail {
	char buf[769]; /* a message has room for this and the rest */
	size_t len;
};

static void tail_add(struct tail *t, const char *s, size_t n)
{
	const size_t room = sizeof t->buf - 1;

	if (n > room) {
		s += n - room;
		n = room;
	}
	if (t->len + n > room) {
		size_t drop = t->len + n - room;

		memmove(t->buf, t->buf + drop, t->len - drop);
		t->len -= drop;
	}
	memcpy(t->buf + t->len, s, n);
	t->len += n;
}

/* A NUL would end the text of the message. */
static const char *tail_text(struct tail *t)
{
	while (t->len && (t->buf[t->len - 1] == '\n' || t->buf[t->len - 1] == ' '))
		t->len--;
	for (size_t i = 0; i < t->len; i++)
		if (!t->buf[i])
			t->buf[i] = ' ';
	t->buf[t->len] = 0;
	return t->buf;
}

/* Input as a file: no pipe can be full, and the hook finds its end. */
static int open_input(const unsigned char *data, size_t len)
{
	int fd = (int)syscall(SYS_memfd_create, "hook-state", MFD_CLOEXEC);

	if (fd < 0)
		return -1;
	if (pvx_write(fd, (const char *)data, len) || lseek(fd, 0, SEEK_SET) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static _Noreturn void child(const struct hook *h, int output)
{
	const char *text;

	setpgid(0, 0);
	pvx_reset_signals();
	if (dup2(h->input, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0)
		_exit(127);
	execve(h->path, (char **)(uintptr_t)h->args, (char **)(uintptr_t)h->env);
	text = strerror(errno);
	(void)!write(2, text, strlen(text));
	_exit(127);
}

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Reads what there is; -1 at the end of file. */
static int drain(int fd, struct tail *t)
{
	char buf[4096];
	ssize_t n;

	while ((n = read(fd, buf, sizeof buf)) > 0)
		tail_add(t, buf, (size_t)n);
	return n == 0 || (errno != EAGAIN && errno != EINTR) ? -1 : 0;
}

/* Waits until the process ends. Its output may stay open longer, in somebody else's hands.
 * Returns 0, or ETIMEDOUT. */
static int wait_for(int pidfd, int output, uint32_t timeout, struct tail *t)
{
	struct pollfd fds[] = {
		{ .fd = pidfd, .events = POLLIN },
		{ .fd = output, .events = POLLIN },
		{ .fd = pvx.sock, .events = 0 }, /* POLLHUP: the shim is gone */
	};
	int64_t end = now() + (int64_t)timeout * 1000;

	for (;;) {
		int64_t left = timeout ? end - now() : -1;

		if (timeout && left <= 0)
			return ETIMEDOUT;
		if (poll(fds, 3, left > 1 << 30 ? 1 << 30 : (int)left) < 0 && errno != EINTR)
			return errno;
		if (fds[1].revents && drain(output, t))
			fds[1].fd = -1;
		if (fds[2].revents)
			return EPIPE;
		if (fds[0].revents) {
			if (fds[1].fd >= 0)
				drain(output, t);
			return 0;
		}
	}
}

static int supervise(pid_t pid, int output, uint32_t timeout)
{
	struct tail tail = { .len = 0 };
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), status, err;

	err = pidfd < 0 ? errno : wait_for(pidfd, output, timeout, &tail);
	if (pidfd >= 0)
		close(pidfd);
	if (err)
		kill(-pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (err == EPIPE)
		_exit(1);
	if (err == ETIMEDOUT)
		return pvx_fail(err, "the hook took more than ", pvx_number((long)timeout), " s: ", tail_text(&tail), NULL);
	if (err)
		return pvx_fail(err, "wait for the hook", NULL);
	if (WIFSIGNALED(status))
		return pvx_fail(0, "signal ", pvx_number(WTERMSIG(status)), ": ", tail_text(&tail), NULL);
	if (WEXITSTATUS(status))
		return pvx_fail(0, "exit status ", pvx_number(WEXITSTATUS(status)), ": ", tail_text(&tail), NULL);
	return 0;
}

static int run(const struct hook *h, uint32_t timeout)
{
	int out[2], rc;
	pid_t pid;

	if (pipe2(out, O_CLOEXEC))
		return PVX_FAIL("pipe");
	pid = fork();
	if (pid == 0)
		child(h, out[1]);
	close(out[1]);
	if (pid < 0) {
		rc = PVX_FAIL("fork");
	} else {
		setpgid(pid, pid); /* both do it: either may come first */
		/* Only our end of it. */
		fcntl(out[0], F_SETFL, O_NONBLOCK);
		rc = supervise(pid, out[0], timeout);
	}
	close(out[0]);
	return rc;
}

int pvx_op_hook(struct pvx_reader *r)
{
	static const char *args[4096], *env[16384];
	struct hook h = { .path = pvx_str(r), .args = args, .env = env };
	const unsigned char *state;
	uint32_t len;
	int rc;

	if (pvx_strings(r, args, sizeof args / sizeof args[0]) || pvx_strings(r, env, sizeof env / sizeof env[0]))
		return -1;
	state = pvx_bytes(r, &len);
	h.input = open_input(state, len);
	if (h.input < 0)
		return PVX_FAIL("make the hook's input");
	rc = run(&h, pvx_u32(r));
	close(h.input);
	return rc;
}
