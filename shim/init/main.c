/* pvelxc-init: hook FD | init FD | exec FD | sandbox FD. See protocol.h. */
#include <errno.h>
#include <linux/close_range.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel.h"
#include "pvx.h"

struct pvx_state pvx = { .sock = -1, .root = -1, .proc = -1, .exec_pipe = -1 };

#ifndef PVX_CHECK

static int role_of(const char *name)
{
	if (!strcmp(name, "hook"))
		return PVX_ROLE_HOOK;
	if (!strcmp(name, "init"))
		return PVX_ROLE_INIT;
	if (!strcmp(name, "exec"))
		return PVX_ROLE_EXEC;
	if (!strcmp(name, "sandbox"))
		return PVX_ROLE_SANDBOX;
	return 0;
}

static int descriptor_of(const char *s)
{
	int n = 0;

	if (!*s)
		return -1;
	for (; *s; s++) {
		if (*s < '0' || *s > '9' || n > 100000)
			return -1;
		n = n * 10 + (*s - '0');
	}
	return n;
}

static const unsigned char *receive_program(size_t *len)
{
	struct stat st;
	void *map;
	int fd;

	if (pvx_recv(PVX_MSG_PROGRAM, &fd, 1) != 1) {
		pvx_fail(EPROTO, "no program", NULL);
		return NULL;
	}
	if (fstat(fd, &st) || st.st_size < (off_t)sizeof(struct pvx_header) || st.st_size > PVX_MAX_PROGRAM) {
		pvx_fail(EPROTO, "size of the program", NULL);
		return NULL;
	}
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (map == MAP_FAILED) {
		PVX_FAIL("map the program");
		return NULL;
	}
	*len = (size_t)st.st_size;
	return map;
}

int main(int argc, char **argv)
{
	const unsigned char *program;
	size_t len = 0;

	if (argc != 3 || !(pvx.role = role_of(argv[1])) || (pvx.sock = descriptor_of(argv[2])) < 3) {
		static const char usage[] = "usage: pvelxc-init hook|init|exec|sandbox SOCKET\n";

		(void)!write(2, usage, sizeof usage - 1);
		return 2;
	}
	/* It is executed from a descriptor, whose number would be its name. */
	prctl(PR_SET_NAME, "pvelxc-init");
	/* Nothing in the container may look into this process, which still sees the host. */
	prctl(PR_SET_DUMPABLE, 0);
	syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC);
	umask(022);

	if (pvx_send(PVX_MSG_HELLO, (uint32_t)pvx.role, -1))
		return 1;
	program = receive_program(&len);
	if (!program)
		pvx_die();
	if (pvx.role != PVX_ROLE_HOOK && pvx_open_proc())
		pvx_die();
	/* exec: the container's comes with OP_ENTER. */
	if (pvx.role == PVX_ROLE_INIT) {
		pvx.root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (pvx.root < 0) {
			PVX_FAIL("open /");
			pvx_die();
		}
	}
	if (pvx_check(program, len, pvx.role) || pvx_run(program))
		pvx_die();
	return pvx_send(PVX_MSG_DONE, 0, -1) ? 1 : 0;
}

#endif
