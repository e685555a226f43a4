/* Messages to and from the shim, and errors. */
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "pvx.h"

static struct {
	struct pvx_msg msg;
	char text[PVX_MAX_TEXT];
} failure;
static size_t failure_len;

int pvx_fail(int err, ...)
{
	const char *s;
	va_list ap;

	failure.msg.type = PVX_MSG_ERROR;
	failure.msg.op = pvx.op;
	failure.msg.err = err;
	failure.msg.arg = 0;
	failure_len = 0;
	va_start(ap, err);
	while ((s = va_arg(ap, const char *))) {
		size_t n = strlen(s), room = sizeof failure.text - failure_len;

		if (n > room)
			n = room;
		memcpy(failure.text + failure_len, s, n);
		failure_len += n;
	}
	va_end(ap);
	return -1;
}

_Noreturn void pvx_die(void)
{
	size_t len = sizeof failure.msg + failure_len;

	/* When nobody listens any more, the exit status has to do. */
	if (pvx.exec_pipe >= 0)
		(void)!write(pvx.exec_pipe, &failure, len);
	else
		(void)!send(pvx.sock, &failure, len, MSG_NOSIGNAL);
	if (pvx.exec_pipe < 0)
		_exit(1);
	_exit(pvx.code == PVX_OP_EXEC && failure.msg.err == ENOENT ? 127 : 126);
}

const char *pvx_number(long n)
{
	static char bufs[4][24];
	static unsigned next;
	char *p = bufs[next++ % 4] + sizeof bufs[0] - 1;
	unsigned long u = n < 0 ? 0ul - (unsigned long)n : (unsigned long)n;

	*p = 0;
	do
		*--p = (char)('0' + u % 10);
	while (u /= 10);
	if (n < 0)
		*--p = '-';
	return p;
}

int pvx_send(uint32_t type, uint32_t arg, int fd)
{
	struct pvx_msg msg = { .type = type, .op = pvx.op, .arg = arg };
	struct iovec iov = { &msg, sizeof msg };
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (fd >= 0) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof control);
		hdr.msg_control = control.buf;
		hdr.msg_controllen = sizeof control.buf;
		c = CMSG_FIRSTHDR(&hdr);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof fd);
		memcpy(CMSG_DATA(c), &fd, sizeof fd);
	}
	do
		n = sendmsg(pvx.sock, &hdr, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)sizeof msg ? 0 : PVX_FAIL("send to the shim");
}

int pvx_recv(uint32_t type, int *fds, unsigned max)
{
	struct pvx_msg msg;
	struct iovec iov = { &msg, sizeof msg };
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(PVX_MAX_FDS_MESSAGE * sizeof(int))];
	} control;
	struct msghdr hdr = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof control.buf,
	};
	unsigned count = 0;
	ssize_t n;

	do
		n = recvmsg(pvx.sock, &hdr, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n == 0 || (n < 0 && errno == ECONNRESET))
		_exit(1); /* the shim is gone: so are we */
	if (n < 0)
		return PVX_FAIL("receive from the shim");
	if (n != (ssize_t)sizeof msg || msg.type != type)
		return pvx_fail(EPROTO, "message of another type than expected", NULL);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&hdr); c; c = CMSG_NXTHDR(&hdr, c)) {
		size_t bytes = c->cmsg_len - CMSG_LEN(0);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		if (bytes / sizeof(int) > max - count)
			return pvx_fail(EPROTO, "more descriptors than expected", NULL);
		memcpy(fds + count, CMSG_DATA(c), bytes);
		count += (unsigned)(bytes / sizeof(int));
	}
	if (hdr.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return pvx_fail(EMFILE, "receive descriptors: the limit RLIMIT_NOFILE is too low", NULL);
	return (int)count;
}
