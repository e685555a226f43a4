/*
 * pvelxc-monitor: starts one LXC container in the foreground and reports how it ended.
 *
 * liblxc refuses a foreground start in a threaded process, so this cannot be Go; it is a
 * process of its own, with one thread, the shim's child. It knows nothing of OCI.
 *
 * It is started ahead of its container: mapping liblxc and the libraries of liblxc takes
 * as long as the rest of a start. Descriptor 3 is the socket to the shim. MSG_CONTAINER
 * (protocol.h) brings all that it must know; when the shim ends before that, it ends too.
 * The mount hook and PID 1 inherit descriptor 3, and descriptor 4, from which liblxc
 * executes PID 1.
 *
 * At the end the exit file holds "STATUS\n", 0..255 in the shell's coding, written beside
 * it and renamed, so that the status survives a shim that was killed; then the same goes to
 * the shim as MSG_EXIT. Nothing is printed: the descriptors are the user's.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <lxc/lxccontainer.h>

#include "../init/protocol.h"

enum { SOCKET_FD = 3, INIT_FD = 4 };

/* Exit code of this process when there is no container's status to give. */
enum { EXIT_NOT_STARTED = 70 };

static void tell(uint32_t type, int32_t err, uint32_t arg, const char *text)
{
	struct {
		struct pvx_msg msg;
		char text[256];
	} m = { .msg = { .type = type, .err = err, .arg = arg } };
	size_t n = 0;

	if (text) {
		n = strlen(text);
		if (n > sizeof(m.text))
			n = sizeof(m.text);
		memcpy(m.text, text, n);
	}
	/* A dead shim is no reason to fail: the exit file is there for that case. */
	(void)send(SOCKET_FD, &m, sizeof(m.msg) + n, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int fail(const char *what, int err)
{
	tell(PVX_MSG_ERROR, err, 0, what);
	return EXIT_NOT_STARTED;
}

/*
 * liblxc keeps waitpid's status in a coding of its own: the exit code n as n << 8, the
 * signal s as s << 8 | 0x7f. The shell's coding is what OCI runtimes report.
 */
static unsigned int shell_status(unsigned int e)
{
	if ((e & 0x7f) == 0x7f)
		return 128 + ((e >> 8) & 0x7f);
	if (e & 0x7f) /* a plain wait status of a signal, should liblxc ever give one */
		return 128 + (e & 0x7f);
	return (e >> 8) & 0xff;
}

static void write_exit_file(const char *path, unsigned int status)
{
	char tmp[4096], text[16];
	int fd, n;

	n = snprintf(tmp, sizeof(tmp), "%s.tmp", path);
	if (n < 0 || (size_t)n >= sizeof(tmp))
		return;
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return;
	n = snprintf(text, sizeof(text), "%u\n", status);
	if (write(fd, text, (size_t)n) == n)
		(void)rename(tmp, path);
	close(fd);
}

/* One string of a message: its length, its bytes, a NUL. Null when it is malformed. */
static const char *take_string(const char **at, const char *end)
{
	const char *text = *at + sizeof(uint32_t);
	uint32_t len;

	if ((size_t)(end - *at) < sizeof(len))
		return NULL;
	memcpy(&len, *at, sizeof(len));
	if (len >= (size_t)(end - text) || text[len] || strlen(text) != len)
		return NULL;
	*at = text + len + 1;
	return text;
}

struct container {
	const char *name, *lxcpath, *config, *exit_file;
};

/*
 * Waits for the container and puts its descriptors into place: 0, 1, 2 and INIT_FD.
 * Returns 0, or what to exit with.
 */
static int receive(struct container *c)
{
	static struct {
		struct pvx_msg msg;
		char strings[PVX_MAX_CONTAINER];
	} m;
	enum { FDS = 4 };
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(FDS * sizeof(int))];
	} control;
	struct iovec iov = { &m, sizeof(m) };
	struct msghdr hdr = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control.buf),
	};
	const char **strings[] = { &c->name, &c->lxcpath, &c->config, &c->exit_file };
	const char *at = m.strings, *end;
	struct cmsghdr *cmsg;
	int fds[FDS];
	ssize_t n;

	do
		n = recvmsg(SOCKET_FD, &hdr, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n == 0 || (n < 0 && errno == ECONNRESET))
		return EXIT_NOT_STARTED; /* there will be no container */
	if (n < 0)
		return fail("receive the container", errno);
	if ((size_t)n < sizeof(m.msg) || m.msg.type != PVX_MSG_CONTAINER || m.msg.arg != PVX_VERSION)
		return fail("the shim is of another version than pvelxc-monitor", EPROTO);
	cmsg = CMSG_FIRSTHDR(&hdr);
	if ((hdr.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) || !cmsg || cmsg->cmsg_type != SCM_RIGHTS ||
	    cmsg->cmsg_len != CMSG_LEN(sizeof(fds)))
		return fail("receive the container: not whole", EPROTO);
	memcpy(fds, CMSG_DATA(cmsg), sizeof(fds));
	end = (const char *)&m + n;
	for (size_t i = 0; i < sizeof(strings) / sizeof(*strings); i++) {
		*strings[i] = take_string(&at, end);
		if (!*strings[i])
			return fail("receive the container: malformed", EPROTO);
	}
	/* All are above INIT_FD: 0 to 4 were open. */
	for (int i = 0; i < FDS; i++) {
		if (dup2(fds[i], i < 3 ? i : INIT_FD) < 0)
			return fail("put the container's descriptors into place", errno);
		close(fds[i]);
	}
	return 0;
}

int main(void)
{
	char init[] = "/proc/self/fd/4", role[] = "init", fd[] = "3";
	char *const init_argv[] = { init, role, fd, NULL };
	struct container container;
	struct lxc_container *c;
	unsigned int status;
	sigset_t none;
	bool started;
	int err;

	/* The name of a program that is run from a descriptor would be the descriptor's. */
	prctl(PR_SET_NAME, "pvelxc-monitor");
	/* Whatever the shim's runtime had blocked or ignored is not for the container. */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);

	if (syscall(SYS_close_range, SOCKET_FD + 1, ~0U, 0) < 0)
		return fail("close inherited descriptors", errno);
	/* liblxc hands this down; it must, it is the hook's and PID 1's. */
	if (fcntl(SOCKET_FD, F_SETFD, 0) < 0)
		return EXIT_NOT_STARTED;
	/* INIT_FD is taken, so that no descriptor that comes lies in a place of another. */
	if (open("/dev/null", O_RDONLY | O_CLOEXEC) != INIT_FD)
		return fail("descriptors are not as they should be", EBADF);
	/* With newuidmap in reach liblxc insists on /etc/subuid even for root. */
	if (clearenv() != 0 || setenv("PATH", "/nonexistent", 1) < 0)
		return fail("set the environment", errno);
	err = receive(&container);
	if (err)
		return err;

	/* No implicit config: lxc_container_new would load LXCPATH/NAME/config. */
	c = lxc_container_new(container.name, container.lxcpath);
	if (!c)
		return fail("liblxc: lxc_container_new failed", ENOMEM);
	c->clear_config(c);
	if (!c->load_config(c, container.config)) {
		lxc_container_put(c);
		return fail("liblxc does not accept the generated config", EINVAL);
	}
	if (!c->want_daemonize(c, false)) {
		lxc_container_put(c);
		return fail("liblxc: want_daemonize failed", EINVAL);
	}

	started = c->start(c, 0, init_argv);
	status = shell_status((unsigned int)c->error_num);
	if (!started && c->error_num <= 0) {
		lxc_container_put(c);
		return fail("liblxc could not start the container", 0);
	}
	lxc_container_put(c);

	write_exit_file(container.exit_file, status);
	tell(PVX_MSG_EXIT, 0, status, NULL);
	return (int)status;
}
