/* probe FILTER FLAGS NUMBER[,ARG...]...: says for each system call what the kernel
 * does with it under the filter: "ok", "errno N" or "signal N", one line each. With
 * the number "none" only the load is tried: "loaded FD" or "load errno N". */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct result {
	volatile int done;
	volatile long value;
	volatile int error;
};

static long load(const struct sock_fprog *program, unsigned flags)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, program);
}

int main(int argc, char **argv)
{
	static struct sock_filter instructions[4096];
	struct result *result = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int fd = argc > 3 ? open(argv[1], O_RDONLY) : -1;
	ssize_t size = fd < 0 ? -1 : read(fd, instructions, sizeof instructions);
	unsigned flags = argc > 3 ? (unsigned)strtoul(argv[2], NULL, 0) : 0;

	if (size <= 0 || result == MAP_FAILED)
		return 2;
	struct sock_fprog program = { (unsigned short)((size_t)size / sizeof *instructions), instructions };

	for (int i = 3; i < argc; i++) {
		unsigned long number = 0, args[6] = { 0 };
		int only_load = !strcmp(argv[i], "none");
		char *at = argv[i];

		if (!only_load) {
			number = strtoul(at, &at, 0);
			for (int n = 0; *at == ',' && n < 6; n++)
				args[n] = strtoul(at + 1, &at, 0);
		}
		memset((void *)result, 0, sizeof *result);
		pid_t child = fork();
		if (child < 0)
			return 2;
		if (child == 0) {
			long loaded = load(&program, flags);
			if (loaded < 0 || only_load) {
				result->value = loaded;
				result->error = errno;
				result->done = 2;
			} else {
				result->value = syscall((long)number, args[0], args[1], args[2], args[3], args[4], args[5]);
				result->error = errno;
				result->done = 1;
			}
			/* The filter may not even let it end. */
			for (;;)
				;
		}
		int status = 0;
		while (!result->done && waitpid(child, &status, WNOHANG) == 0)
			usleep(200);
		if (result->done) {
			kill(child, 9);
			waitpid(child, &status, 0);
		}
		if (result->done == 2 && result->value >= 0)
			printf("loaded %ld\n", result->value);
		else if (result->done == 2)
			printf("load errno %d\n", result->error);
		else if (result->done && result->value == -1)
			printf("errno %d\n", result->error);
		else if (result->done)
			printf("ok\n");
		else if (WIFSIGNALED(status))
			printf("signal %d\n", WTERMSIG(status));
		else
			printf("exit %d\n", WEXITSTATUS(status));
	}
	return 0;
}
