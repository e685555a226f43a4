/* Reading programs: bounds are checked here and nowhere else. */
#include <errno.h>
#include <string.h>

#include "pvx.h"

/* Takes n bytes, NULL when there are not that many. */
static const unsigned char *take(struct pvx_reader *r, size_t n)
{
	const unsigned char *p = r->p;

	if ((size_t)(r->end - p) < n)
		return NULL;
	r->p += n;
	return p;
}

/* After pvx_check these cannot run short; if they did, zeros and empty strings come out. */
uint32_t pvx_u32(struct pvx_reader *r)
{
	const unsigned char *p = take(r, sizeof(uint32_t));
	uint32_t v = 0;

	if (p)
		memcpy(&v, p, sizeof v);
	return v;
}

uint64_t pvx_u64(struct pvx_reader *r)
{
	const unsigned char *p = take(r, sizeof(uint64_t));
	uint64_t v = 0;

	if (p)
		memcpy(&v, p, sizeof v);
	return v;
}

const unsigned char *pvx_bytes(struct pvx_reader *r, uint32_t *len)
{
	const unsigned char *p;

	*len = pvx_u32(r);
	p = take(r, *len);
	if (!p)
		*len = 0;
	return p;
}

const char *pvx_str(struct pvx_reader *r)
{
	size_t len = pvx_u32(r);
	const char *s = (const char *)take(r, len + 1);

	return s ? s : "";
}

int pvx_fd(struct pvx_reader *r)
{
	uint32_t i = pvx_u32(r);

	return i < pvx.nfds ? pvx.fds[i] : -1;
}

int pvx_strings(struct pvx_reader *r, const char **vec, size_t room)
{
	uint32_t n = pvx_u32(r);

	if (n >= room)
		return pvx_fail(E2BIG, "a list with ", pvx_number((long)n), " strings", NULL);
	for (uint32_t i = 0; i < n; i++)
		vec[i] = pvx_str(r);
	vec[n] = NULL;
	return 0;
}

/* ---- checking ---- */

static const struct pvx_command *command_of(uint32_t code)
{
	for (const struct pvx_command *c = pvx_commands; c->code; c++)
		if (c->code == code)
			return c;
	return NULL;
}

static int check_field(struct pvx_reader *r, char kind, uint32_t nfds)
{
	const unsigned char *p;
	uint32_t n;

	switch (kind) {
	case 'u':
		return take(r, sizeof(uint32_t)) ? 0 : -1;
	case 'q':
		return take(r, sizeof(uint64_t)) ? 0 : -1;
	case 'f':
	case 'F':
		if (!take(r, sizeof(uint32_t)))
			return -1;
		memcpy(&n, r->p - sizeof n, sizeof n);
		return n < nfds || (kind == 'F' && n == PVX_NO_FD) ? 0 : -1;
	case 's':
	case 'b':
		if (!take(r, sizeof(uint32_t)))
			return -1;
		memcpy(&n, r->p - sizeof n, sizeof n);
		p = take(r, kind == 's' ? (size_t)n + 1 : n);
		if (!p)
			return -1;
		/* exactly one NUL, at the end */
		return kind == 's' && (const unsigned char *)memchr(p, 0, (size_t)n + 1) != p + n ? -1 : 0;
	}
	return -1;
}

static int check_fields(struct pvx_reader *r, const char *fields, uint32_t nfds)
{
	for (; *fields; fields++) {
		const char *entry = fields + 1;
		uint32_t n;

		if (*fields != '[') {
			if (check_field(r, *fields, nfds))
				return -1;
			continue;
		}
		if (check_field(r, 'u', nfds))
			return -1;
		memcpy(&n, r->p - sizeof n, sizeof n);
		while (*fields != ']')
			fields++;
		/* Every entry takes at least four bytes, so n is bounded by the program's size. */
		for (uint32_t i = 0; i < n; i++)
			for (const char *f = entry; f < fields; f++)
				if (check_field(r, *f, nfds))
					return -1;
	}
	return r->p == r->end ? 0 : -1;
}

int pvx_check(const unsigned char *buf, size_t len, int role)
{
	struct pvx_reader r = { buf, buf + len };
	const struct pvx_header *h;
	struct pvx_header header;
	uint32_t nfds = 0;

	h = (const void *)take(&r, sizeof *h);
	if (!h)
		return pvx_fail(EPROTO, "program too short", NULL);
	memcpy(&header, h, sizeof header);
	if (header.magic != PVX_MAGIC || header.version != PVX_VERSION)
		return pvx_fail(EPROTO, "program of another version: shim and pvelxc-init must be of one release", NULL);
	for (pvx.op = 0; pvx.op < header.ops; pvx.op++) {
		const struct pvx_command *c;
		struct pvx_reader payload;
		struct pvx_op op;
		const unsigned char *p = take(&r, sizeof op);

		if (!p)
			return pvx_fail(EPROTO, "program too short", NULL);
		memcpy(&op, p, sizeof op);
		c = command_of(op.code);
		if (!c || !(c->roles & 1u << role))
			return pvx_fail(EPROTO, "operation ", pvx_number((long)op.code), " is unknown to this role", NULL);
		p = take(&r, op.len);
		if (!p || !take(&r, (8 - op.len % 8) % 8))
			return pvx_fail(EPROTO, "operation too long", NULL);
		payload = (struct pvx_reader){ p, p + op.len };
		if (check_fields(&payload, c->fields, nfds))
			return pvx_fail(EPROTO, "malformed operation", NULL);
		if (op.code == PVX_OP_FDS) {
			memcpy(&nfds, p, sizeof nfds);
			if (pvx.op != 0 || nfds > PVX_MAX_FDS)
				return pvx_fail(EPROTO, "misplaced list of descriptors", NULL);
		}
	}
	pvx.op = 0;
	return r.p == r.end ? 0 : pvx_fail(EPROTO, "program too long", NULL);
}

int pvx_run(const unsigned char *buf)
{
	struct pvx_header header;
	struct pvx_op op;

	memcpy(&header, buf, sizeof header);
	buf += sizeof header;
	for (uint32_t i = 0; i < header.ops; i++) {
		struct pvx_reader payload;

		memcpy(&op, buf, sizeof op);
		buf += sizeof op;
		payload = (struct pvx_reader){ buf, buf + op.len };
		buf += ((size_t)op.len + 7) / 8 * 8;
		pvx.op = i;
		pvx.code = op.code;
		if (command_of(op.code)->run(&payload))
			return -1;
	}
	return 0;
}
