/*
 * pvelxc-monitor: starts one LXC container in the foreground and reports how it ended.
 *
 * liblxc refuses a foreground start in a threaded process, so this cannot be Go; it is a
 * process of its own, with one thread, the shim's child. It knows nothing of OCI.
 *
 *   pvelxc-monitor NAME LXCPATH CONFIG EXITFILE [wait]
 *
 * Descriptors: 0, 1, 2 are the container's; 3 is the socket to the shim, which the mount
 * hook and PID 1 inherit; 4 is the detached tree of pvelxc-init, executed as PID 1. With
 * "wait", nothing is started before the shim has sent one datagram (it puts this process
 * into a systemd scope first).
 *
 * At the end EXITFILE holds "STATUS\n", 0..255 in the shell's coding, written beside it and
 * renamed, so that the status survives a shim that was killed; then the same goes to the
 * shim as MSG_EXIT. Nothing is printed: the descriptors are the user's.
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
#include <unistd.h>

#include <lxc/lxccontainer.h>

#include "../init/protocol.h"

enum { SOCKET_FD = 3, INIT_FD = 4, FIRST_FREE_FD = 5 };

/* Exit codes of this process when there is no container's status to give. */
enum { EXIT_USAGE = 64, EXIT_NOT_STARTED = 70 };

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

static bool wait_for_go(void)
{
	char c[sizeof(struct pvx_msg)];
	ssize_t n;

	do
		n = recv(SOCKET_FD, c, sizeof(c), 0);
	while (n < 0 && errno == EINTR);
	return n > 0;
}

int main(int argc, char **argv)
{
	char init[] = "/proc/self/fd/4", role[] = "init", fd[] = "3";
	char *const init_argv[] = { init, role, fd, NULL };
	struct lxc_container *c;
	unsigned int status;
	sigset_t none;
	bool started;

	if (argc < 5)
		return EXIT_USAGE;

	/* Whatever the shim's runtime had blocked or ignored is not for the container. */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);

	if (syscall(SYS_close_range, FIRST_FREE_FD, ~0U, 0) < 0)
		return fail("close inherited descriptors", errno);
	/* liblxc hands these down; it must, they are the hook's and PID 1's. */
	if (fcntl(SOCKET_FD, F_SETFD, 0) < 0 || fcntl(INIT_FD, F_SETFD, 0) < 0)
		return fail("the socket and the init descriptor are not open", errno);
	/* With newuidmap in reach liblxc insists on /etc/subuid even for root. */
	if (clearenv() != 0 || setenv("PATH", "/nonexistent", 1) < 0)
		return fail("set the environment", errno);
	if (argc > 5 && strcmp(argv[5], "wait") == 0 && !wait_for_go())
		return EXIT_NOT_STARTED;

	/* No implicit config: lxc_container_new would load LXCPATH/NAME/config. */
	c = lxc_container_new(argv[1], argv[2]);
	if (!c)
		return fail("liblxc: lxc_container_new failed", ENOMEM);
	c->clear_config(c);
	if (!c->load_config(c, argv[3])) {
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

	write_exit_file(argv[4], status);
	tell(PVX_MSG_EXIT, 0, status, NULL);
	return (int)status;
}
