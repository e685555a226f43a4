/* The propagation of the container's mounts. liblxc makes them all shared before init runs, and a
 * recursive change of "/" would take the mounts that are meant to propagate along. */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernel.h"
#include "pvx.h"

struct rule {
	uint64_t flag;
	uint32_t recursive;
	uint32_t len; /* of path; 0: the destination does not exist */
	char path[PATH_MAX];
};

struct rules {
	uint64_t flag; /* for mounts without a rule */
	struct rule *list;
	uint32_t n;
};

/* The path as /proc/self/mountinfo has it: without symlinks. */
static int resolve(const char *dest, struct rule *rule)
{
	char link[32] = "self/fd/";
	int fd = pvx_open(dest, O_PATH, 0);
	ssize_t n;

	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : PVX_FAIL("open ", dest);
	strcat(link, pvx_number(fd));
	n = readlinkat(pvx.proc, link, rule->path, sizeof rule->path);
	close(fd);
	if (n <= 0 || n == (ssize_t)sizeof rule->path)
		return PVX_FAIL("resolve ", dest);
	rule->len = (uint32_t)n;
	return 0;
}

static int matches(const struct rule *rule, const char *path, size_t len)
{
	uint32_t n = rule->len;

	if (!n || n > len || memcmp(rule->path, path, n))
		return 0;
	return n == len || (rule->recursive && (n == 1 || path[n] == '/'));
}

static uint64_t flag_of(const struct rules *rules, const char *path, size_t len)
{
	for (uint32_t i = rules->n; i > 0; i--)
		if (matches(&rules->list[i - 1], path, len))
			return rules->list[i - 1].flag;
	return rules->flag;
}

/* Undoes the octal escapes of the kernel in place (show_mountinfo, mangle_path). */
static size_t unescape(char *s)
{
	char *to = s, *start = s;

	for (; *s; s++) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' &&
		    s[3] <= '7') {
			*to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
			s += 3;
		} else {
			*to++ = *s;
		}
	}
	*to = 0;
	return (size_t)(to - start);
}

/* Changes the mount of one line: id parent dev root PATH options [tags …] - … */
static int apply(const struct rules *rules, char *line)
{
	char *path = line, *end, *tags;
	uint64_t flag;
	size_t len;

	for (int i = 0; i < 4; i++) {
		path = strchr(path, ' ');
		if (!path)
			return pvx_fail(EPROTO, "unknown format of mountinfo", NULL);
		path++;
	}
	end = strchr(path, ' ');
	if (!end)
		return pvx_fail(EPROTO, "unknown format of mountinfo", NULL);
	*end = 0;
	tags = end + 1;
	len = unescape(path);
	flag = flag_of(rules, path, len);
	if (!flag)
		return 0;
	end = strstr(tags, " - ");
	if (end)
		*end = 0;
	if (flag == MS_PRIVATE && !strstr(tags, "shared:") && !strstr(tags, "master:") && !strstr(tags, "unbindable"))
		return 0;
	/* EINVAL, ENOENT: under another mount, not to be reached by anyone. */
	if (mount(NULL, path, NULL, flag, NULL) && errno != EINVAL && errno != ENOENT && errno != ENOTDIR)
		return PVX_FAIL("change the propagation of ", path);
	return 0;
}

static int walk(const struct rules *rules, int fd)
{
	static char buf[64 << 10];
	size_t have = 0;
	int skip = 0; /* the rest of a line too long to be kept; what counts is at its start */
	ssize_t n;

	while ((n = read(fd, buf + have, sizeof buf - 1 - have)) > 0) {
		char *line = buf, *end;

		have += (size_t)n;
		buf[have] = 0;
		while ((end = strchr(line, '\n')) || (line == buf && have == sizeof buf - 1)) {
			int cut = !end;

			if (end)
				*end = 0;
			else
				end = buf + have - 1;
			if (!skip && apply(rules, line))
				return -1;
			skip = cut;
			line = end + 1;
		}
		have -= (size_t)(line - buf);
		memmove(buf, line, have);
	}
	return n < 0 ? PVX_FAIL("read mountinfo") : 0;
}

int pvx_op_propagation(struct pvx_reader *r)
{
	struct rules rules = { .flag = pvx_u64(r), .n = pvx_u32(r) };
	size_t size = (rules.n + 1) * sizeof *rules.list;
	int fd, rc = 0;

	rules.list = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (rules.list == MAP_FAILED)
		return PVX_FAIL("allocate memory");
	for (uint32_t i = 0; i < rules.n && !rc; i++) {
		const char *dest = pvx_str(r);

		rules.list[i].flag = pvx_u64(r);
		rules.list[i].recursive = pvx_u32(r);
		rc = resolve(dest, &rules.list[i]);
	}
	if (!rc) {
		fd = pvx_proc("thread-self/mountinfo", O_RDONLY);
		rc = fd < 0 ? PVX_FAIL("open mountinfo") : walk(&rules, fd);
		if (fd >= 0)
			close(fd);
	}
	munmap(rules.list, size);
	return rc;
}
