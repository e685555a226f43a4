/*
 * The language between the shim and pvelxc-init.
 *
 * pvelxc-init is one static binary with three roles:
 *
 *   hook FD   lxc.hook.mount: inside the container's namespaces, before pivot_root, still
 *             seeing the host's files; LXC_ROOTFS_MOUNT is where the root is mounted
 *   init FD   PID 1 of the container, after pivot_root, until it execs the user's process
 *   exec FD   a process for a running container: joins it, then ends like init
 *
 * FD is a SOCK_SEQPACKET socket to the shim. Each role sends MSG_HELLO and is answered by
 * MSG_PROGRAM with one descriptor: a sealed memfd that holds a program, a list of
 * operations that are carried out in order. So all decisions are the shim's, in Go, and
 * the C only knows how to do single things. It parses nothing but this format, and treats
 * a malformed program as a fatal error.
 *
 * program   struct pvx_header, then `ops` times: struct pvx_op, then op.len bytes payload,
 *           then padding to a multiple of 8
 * payload   fields in the order given below, native byte order, no padding between them:
 *             u32, u64, i32, i64
 *             str   u32 length without the NUL, the bytes, a NUL; no NUL inside
 *             list  u32 count, then that many entries
 *             bytes u32 length, the bytes
 *             fd    u32 index into the table of descriptors that OP_FDS has filled
 *
 * The Go side is package shim/program; its test reads this file and fails when the two
 * number an operation differently.
 */
#ifndef PVX_PROTOCOL_H
#define PVX_PROTOCOL_H

#include <stdint.h>

#define PVX_MAGIC 0x58565031u /* "1PVX" */
#define PVX_VERSION 1u

struct pvx_header {
	uint32_t magic, version, ops, reserved;
};

struct pvx_op {
	uint32_t code, len;
};

/* Messages. Each is one SEQPACKET datagram that starts with struct pvx_msg. */
struct pvx_msg {
	uint32_t type;
	uint32_t op;   /* index of the operation that it speaks of */
	int32_t err;   /* errno of MSG_ERROR, else 0 */
	uint32_t arg;  /* per type */
	/* MSG_ERROR: a text follows, at most 1024 bytes, no NUL */
};

enum pvx_msg_type {
	/* to the shim */
	PVX_MSG_HELLO = 1, /* arg = enum pvx_role; the kernel's credentials tell the pid */
	PVX_MSG_SYNC = 2,  /* arg = the number in OP_SYNC; waits for MSG_GO */
	PVX_MSG_FD = 3,    /* arg = enum pvx_fd_kind, one descriptor attached */
	PVX_MSG_ERROR = 4, /* the program failed at op; the sender exits */
	PVX_MSG_DONE = 5,  /* the program is through (hook), or the child of exec is made: arg = its pid */
	PVX_MSG_EXIT = 6,  /* from pvelxc-monitor: the container ended; arg = its status, 0..255 */
	/* to pvelxc-init */
	PVX_MSG_PROGRAM = 16, /* one descriptor: the program */
	PVX_MSG_FDS = 17,     /* 1..128 descriptors, for OP_FDS */
	PVX_MSG_GO = 18,      /* answers MSG_SYNC */
};

enum pvx_role { PVX_ROLE_HOOK = 1, PVX_ROLE_INIT = 2, PVX_ROLE_EXEC = 3 };

enum pvx_fd_kind {
	PVX_FD_CONSOLE = 1,    /* the pty's master, from OP_TERMINAL */
	PVX_FD_SECCOMP = 2,    /* the notify descriptor, from OP_SECCOMP */
	PVX_FD_EXEC = 3,       /* read end of a CLOEXEC pipe, from OP_EXEC: end of file = exec
	                        * happened; else a struct pvx_msg and text as in MSG_ERROR */
};

enum pvx_op_code {
	/* -- any role -- */
	PVX_OP_FDS = 1,        /* u32 n: receive n descriptors (as many MSG_FDS as it takes) */
	PVX_OP_SYNC = 2,       /* u32 number: send MSG_SYNC, wait for MSG_GO; end of file: exit */
	PVX_OP_HOOK = 3,       /* str path, list of str args, list of str env, bytes stdin, u32
	                        * timeout in seconds (0 none): an OCI hook; kill its process group
	                        * when time is up; not exit 0 → error with the tail of its stderr */

	/* -- hook: destinations are resolved below the root, RESOLVE_IN_ROOT -- */
	PVX_OP_ROOT = 16,      /* str path: the root for all that follows */
	PVX_OP_MOUNT_FS = 17,  /* str type, str source, str dest, list of (u32 flag?, str key, str value),
	                        * u64 attr_set, u32 copy_up: fsopen, fsconfig, fsmount, move_mount;
	                        * a failure's text is the filesystem context's own log */
	PVX_OP_MOUNT_TREE = 18,/* fd tree, str dest, u32 is_dir: make the mountpoint, move_mount */
	PVX_OP_ATTR = 19,      /* str dest, u64 set, u64 clear, u64 propagation, u32 recursive: mount_setattr */
	PVX_OP_MKNOD = 20,     /* str path, u32 mode with type, u32 major, u32 minor, u32 uid, u32 gid */
	PVX_OP_SYMLINK = 21,   /* str target, str path: EEXIST is fine */
	PVX_OP_MKDIR = 22,     /* str path, u32 mode: with parents, existing is fine */
	PVX_OP_UNSHARE_CGROUP = 23, /* (also init) a cgroup namespace of its own */

	/* -- init, at create -- */
	PVX_OP_HOSTNAME = 32,  /* str */
	PVX_OP_DOMAINNAME = 33,/* str */
	PVX_OP_SYSCTL = 34,    /* str path below /proc/sys, str value */
	PVX_OP_MASK = 35,      /* str path: file → /dev/null, directory → empty read-only tmpfs; ENOENT is fine */
	PVX_OP_READONLY = 36,  /* str path: recursive bind, read-only; keeps other flags; ENOENT is fine */
	PVX_OP_PROPAGATION = 37, /* u64 MS_* for all mounts (each on its own, from mountinfo), list of
	                        * (str dest, u64 MS_*, u32 recursive) that differ */
	PVX_OP_ROOT_ATTR = 38, /* u64 set, u64 propagation: of "/" alone */
	PVX_OP_TIMENS = 39,    /* str offsets: new time namespace */
	PVX_OP_SETNS = 40,     /* fd, u32 CLONE_NEW* */
	PVX_OP_UNMOUNT = 41,   /* str path: MNT_DETACH, EINVAL and ENOENT are fine */
	PVX_OP_CWD_MKDIR = 42, /* str path, u32 uid, u32 gid: make what is missing, as runc does */
	PVX_OP_TERMINAL = 43,  /* (also exec) u32 rows, u32 cols, u32 uid, u32 console?: pty from /dev/ptmx,
	                        * master → MSG_FD, slave = stdin/out/err and controlling tty; console: bind
	                        * it over /dev/console */
	PVX_OP_STDIO_OWNER = 44, /* (also exec) u32 uid, u32 gid: fchown of 0, 1, 2 where they are pipes or ttys;
	                        * EPERM, EROFS and EINVAL are fine */
	PVX_OP_LOOKPATH = 45,  /* str arg0, str PATH: fail now with ENOENT or EACCES as execvp would */

	/* -- exec -- */
	PVX_OP_ENTER = 64,     /* fd pidfd, fd cgroup directory (v2; 0xffffffff none), list of fd of v1
	                        * tasks/cgroup.procs files, u32 CLONE_NEW* to join, u32 own user namespace?,
	                        * list of i32 cpus for before the cgroup: join the pid namespace, clone3 with
	                        * CLONE_PARENT (into the cgroup), the parent sends MSG_DONE with the child's pid and
	                        * exits 0; the child goes on */

	/* -- init at start, exec: the process -- */
	PVX_OP_KEYRING = 80,   /* str name: join a new session keyring; ENOSYS is fine */
	PVX_OP_PERSONALITY = 81, /* u64 */
	PVX_OP_RLIMIT = 82,    /* u32 resource, u64 soft, u64 hard */
	PVX_OP_SCHED = 83,     /* u32 policy, u64 flags, i32 nice, u32 priority, u64 runtime, u64 deadline, u64 period */
	PVX_OP_IOPRIO = 84,    /* u32 */
	PVX_OP_MEMPOLICY = 85, /* u32 mode, list of u64 words of the node mask */
	PVX_OP_AFFINITY = 86,  /* list of i32 cpus */
	PVX_OP_UMASK = 87,     /* u32 */
	PVX_OP_LSM = 88,       /* u32 kind (1 apparmor, 2 selinux), str label: for the next exec. The file is
	                        * opened by OP_LSM_OPEN before the mount namespace is left or masked */
	PVX_OP_LSM_OPEN = 89,
	PVX_OP_NNP = 90,       /* no_new_privs */
	PVX_OP_SECCOMP = 91,   /* u32 SECCOMP_FILTER_FLAG_*, bytes of struct sock_filter: load it; with
	                        * NEW_LISTENER send MSG_FD */
	PVX_OP_USER = 92,      /* u64 bounding, u64 effective, u64 inheritable, u64 permitted, u64 ambient,
	                        * u32 keep_sysadmin, u32 uid, u32 gid, list of u32 groups: drop the bounding
	                        * set, setgroups, setgid, setuid with the capabilities kept, then the other four
	                        * sets. keep_sysadmin: CAP_SYS_ADMIN stays effective until OP_CAPS */
	PVX_OP_CAPS = 93,      /* the same five u64: the final sets */
	PVX_OP_CWD = 94,       /* str: chdir, and it must lie inside the root (CVE-2024-21626) */
	PVX_OP_EXEC = 95,      /* list of str argv, list of str env: MSG_FD PVX_FD_EXEC, then execve as execvpe
	                        * does, PATH from env; adds HOME from /etc/passwd (else "/") when env has none */
	PVX_OP_SIGNALS = 96,   /* default dispositions, empty mask, PR_SET_PDEATHSIG SIGKILL (init) */
};

#endif
