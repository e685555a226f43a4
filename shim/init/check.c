/* With -DPVX_CHECK, instead of pvelxc-init: a program that only judges programs, for fuzzing and
 * sanitizers. Reads frames of u32 role, u32 length, bytes; answers each with a byte, 1 for good. */
#ifdef PVX_CHECK

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pvx.h"

static int read_all(void *buf, size_t len)
{
	for (size_t have = 0; have < len;) {
		ssize_t n = read(0, (char *)buf + have, len - have);

		if (n <= 0)
			return -1;
		have += (size_t)n;
	}
	return 0;
}

/* Reads a field as the operations do, and looks at each of its bytes. */
static unsigned read_field(struct pvx_reader *r, char kind)
{
	const unsigned char *p;
	uint32_t len;
	unsigned sum = 0;

	switch (kind) {
	case 'q':
		return (unsigned)pvx_u64(r);
	case 's':
		return (unsigned)strlen(pvx_str(r));
	case 'b':
		for (p = pvx_bytes(r, &len); len--; p++)
			sum += *p;
		return sum;
	case 'f':
	case 'F':
		return (unsigned)pvx_fd(r);
	default:
		return pvx_u32(r);
	}
}

/* Reads all fields of a program that was found good; they must end where it ends. */
static void read_program(const unsigned char *buf)
{
	static volatile unsigned sink;
	struct pvx_header header;

	memcpy(&header, buf, sizeof header);
	buf += sizeof header;
	while (header.ops--) {
		const struct pvx_command *c = pvx_commands;
		struct pvx_reader r;
		struct pvx_op op;

		memcpy(&op, buf, sizeof op);
		buf += sizeof op;
		r = (struct pvx_reader){ buf, buf + op.len };
		buf += ((size_t)op.len + 7) / 8 * 8;
		while (c->code != op.code)
			c++;
		for (const char *f = c->fields; *f; f++) {
			const char *end = strchr(f, ']');

			if (*f != '[') {
				sink += read_field(&r, *f);
				continue;
			}
			for (uint32_t n = pvx_u32(&r); n; n--)
				for (const char *g = f + 1; g < end; g++)
					sink += read_field(&r, *g);
			f = end;
		}
		if (r.p != r.end)
			abort();
	}
}

int main(void)
{
	uint32_t frame[2];

	while (!read_all(frame, sizeof frame)) {
		/* Exactly as long as it is, so that a sanitizer sees one byte more. */
		unsigned char *buf = malloc(frame[1]);
		char verdict;

		if ((!buf && frame[1]) || read_all(buf, frame[1]))
			return 1;
#ifdef PVX_PLANTED /* a mistake, to see that it is found */
		if (pvx_check(buf, frame[1] + PVX_PLANTED, (int)frame[0]))
			return 2;
#endif
		verdict = !pvx_check(buf, frame[1], (int)frame[0]);
		if (verdict)
			read_program(buf);
		free(buf);
		if (write(1, &verdict, 1) != 1)
			return 1;
	}
	return 0;
}

#else
typedef int pvx_no_check; /* ISO C wants something in every file */
#endif
