/* What the files of pvelxc-init share. No stdio, no allocation: everything lives in the mapped
 * program, on the stack or in static memory. */
#ifndef PVX_H
#define PVX_H

#include <stddef.h>
#include <stdint.h>

#include "protocol.h"

/* ---- state: one process, one program ---- */

struct pvx_state {
	int sock;       /* to the shim */
	int role;       /* enum pvx_role */
	int root;       /* O_PATH directory that paths of the container are resolved below */
	int proc;       /* O_PATH directory, proved to be the root of a procfs; not in the hook */
	int exec_pipe;  /* write end, once OP_READY was carried out, else -1 */
	uint32_t op;    /* index of the running operation */
	uint32_t code;  /* its enum pvx_op_code */
	uint32_t nfds;  /* descriptors of OP_FDS */
	int fds[PVX_MAX_FDS];
};

extern struct pvx_state pvx;

/* ---- errors: a function that fails says why by pvx_fail and returns its -1 ---- */

/* Remembers errno value err (0: none) and the text, the strings up to NULL put together. */
int pvx_fail(int err, ...) __attribute__((sentinel));
#define PVX_FAIL(...) pvx_fail(errno, __VA_ARGS__, NULL)

/* Tells the shim what pvx_fail remembers, and exits. */
_Noreturn void pvx_die(void);

/* Decimal text of n in one of four rotating static buffers. */
const char *pvx_number(long n);

/* ---- messages ---- */

int pvx_send(uint32_t type, uint32_t arg, int fd);

/* Receives a message that must be of that type, with at most max descriptors. Returns their
 * number; exits when the shim is gone. */
int pvx_recv(uint32_t type, int *fds, unsigned max);

/* ---- programs ---- */

struct pvx_reader {
	const unsigned char *p, *end;
};

uint32_t pvx_u32(struct pvx_reader *r);
uint64_t pvx_u64(struct pvx_reader *r);
const char *pvx_str(struct pvx_reader *r);
const unsigned char *pvx_bytes(struct pvx_reader *r, uint32_t *len);
int pvx_fd(struct pvx_reader *r); /* -1 for PVX_NO_FD */

/* Puts a list of strings into vec, NULL at its end; E2BIG when it has no room. */
int pvx_strings(struct pvx_reader *r, const char **vec, size_t room);

struct pvx_command {
	uint32_t code;
	uint32_t roles;     /* bit 1 << enum pvx_role */
	const char *fields; /* u u32 or i32, q u64, s str, b bytes, f fd, F fd or none, [..] list */
	int (*run)(struct pvx_reader *r);
};

extern const struct pvx_command pvx_commands[];

/* Checks a whole program before any of it is carried out. */
int pvx_check(const unsigned char *buf, size_t len, int role);

/* Carries out a program that pvx_check has found good. */
int pvx_run(const unsigned char *buf);

/* ---- paths ---- */

/* openat2 below pvx.root, symlinks resolved inside of it, no magic links. */
int pvx_open(const char *path, int flags, uint64_t resolve);

/* As pvx_open with O_PATH, but makes what is missing: directories, and at the end a directory or
 * an empty file. *made tells whether anything was. */
int pvx_make(const char *path, int directory, int *made);

/* Makes the directory that path lies in; *name is the last component. */
int pvx_make_parent(const char *path, const char **name);

/* Opens /proc as pvx.proc when it is what it should be. */
int pvx_open_proc(void);

/* openat2 below pvx.proc, never across a mount on top of it. */
int pvx_proc(const char *path, int flags);

/* Opens an O_PATH descriptor for real. */
int pvx_reopen(int fd, int flags);

/* Writes all of it at once. */
int pvx_write(int fd, const char *buf, size_t len);

/* Tells whether it is the device null. */
int pvx_is_null(int fd);

/* ---- processes ---- */

void pvx_reset_signals(void);

/* Becomes a child of this process's parent, in the cgroup where it is not -1, and says so to the
 * shim with MSG_DONE. The parent of two exits. */
int pvx_become_child(int cgroup);

/* Becomes root of the user namespace: the ids of before have no meaning in it. */
int pvx_become_root(void);

/* ---- operations ---- */

#define PVX_OPERATIONS(X) \
	X(fds) X(sync) X(hook) X(root) X(mount_fs) X(mount_tree) X(attr) X(mknod) X(symlink) X(mkdir) \
	X(unshare_cgroup) X(setns) X(loopback) X(configure) X(hostname) X(domainname) X(sysctl) X(mask) \
	X(readonly) X(propagation) X(root_attr) X(timens) X(unmount) X(terminal) X(lookpath) X(enter) X(unshare) X(empty_root) X(hold) X(keyring) \
	X(personality) X(rlimit) X(sched) X(ioprio) X(mempolicy) X(affinity) X(umask) X(lsm) X(nnp) \
	X(stdio_owner) X(home) X(ready) X(signals) X(seccomp) X(user) X(cwd) X(exec)

#define PVX_DECLARE(name) int pvx_op_##name(struct pvx_reader *r);
PVX_OPERATIONS(PVX_DECLARE)
#undef PVX_DECLARE

/* Copies what directory from holds into directory to; both may be O_PATH. */
int pvx_copy_up(int from, int to);

/* The home directory that OP_HOME found, as "HOME=...", else NULL. */
extern const char *pvx_home;

#endif
