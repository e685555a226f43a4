/*
 * The language between the shim and pvelxc-init.
 *
 * pvelxc-init is one static binary with four roles:
 *
 *   hook FD   lxc.hook.mount: inside the container's namespaces, before pivot_root, still
 *             seeing the host's files; LXC_ROOTFS_MOUNT is where the root is mounted
 *   init FD   PID 1 of the container, after pivot_root, until it execs the user's process
 *   exec FD   a process for a running container: joins it, then ends like init
 *   sandbox FD  makes the namespaces that the containers of a pod share; it ends when the shim
 *             has them, or stays as PID 1 where one of them is a PID namespace
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
	PVX_MSG_DONE = 5,  /* hook: the program is through; exec and sandbox: sent by the child that
	                    * ENTER or UNSHARE has made, before anything else; the kernel's credentials
	                    * tell its pid; sandbox: sent by HOLD as well */
	PVX_MSG_EXIT = 6,  /* pvelxc-monitor: the container ended; arg = its status, 0..255 */
	/* to pvelxc-init */
	PVX_MSG_PROGRAM = 16, /* one descriptor: the program */
	PVX_MSG_FDS = 17,     /* 1..128 descriptors, for OP_FDS */
	PVX_MSG_GO = 18,      /* answers MSG_SYNC */
	/* to pvelxc-monitor: the container that it is for. arg = PVX_VERSION; descriptors:
	 * stdin, stdout, stderr, the tree of pvelxc-init; then four str: liblxc's name and
	 * lxcpath, the paths of the config and of the exit file */
	PVX_MSG_CONTAINER = 19,
};

enum pvx_role { PVX_ROLE_HOOK = 1, PVX_ROLE_INIT = 2, PVX_ROLE_EXEC = 3, PVX_ROLE_SANDBOX = 4 };

enum pvx_fd_kind {
	PVX_FD_CONSOLE = 1, /* the pty's master, from OP_TERMINAL */
	PVX_FD_SECCOMP = 2, /* the notify descriptor, from OP_SECCOMP */
	PVX_FD_EXEC = 3,    /* read end of a CLOEXEC pipe, from OP_READY: end of file = exec
	                     * happened; else one MSG_ERROR as it would be on the socket */
};

/* No descriptor, where the operation allows that. */
#define PVX_NO_FD 0xffffffffu

/* Limits of the format. */
#define PVX_MAX_PROGRAM (64u << 20) /* bytes */
#define PVX_MAX_FDS 4096u           /* descriptors in one program */
#define PVX_MAX_FDS_MESSAGE 128u    /* descriptors in one MSG_FDS */
#define PVX_MAX_TEXT 1024u          /* bytes of text in a message */
#define PVX_MAX_CONTAINER 16384u    /* bytes of the strings in a MSG_CONTAINER */

/* Flags of OP_MOUNT_FS. */
#define PVX_FS_COPY_UP 1u   /* fill the new filesystem with what the destination holds */
#define PVX_FS_KEEP_MODE 2u /* its root gets the mode of the destination, if that existed */

/* Kinds of OP_LSM. */
#define PVX_LSM_APPARMOR 1u
#define PVX_LSM_SELINUX 2u

enum pvx_op_code {
	/* -- any role -- */
	PVX_OP_FDS = 1,  /* u32 n: receive n descriptors (as many MSG_FDS as it takes); once, first */
	PVX_OP_SYNC = 2, /* u32 number: send MSG_SYNC, wait for MSG_GO; end of file: exit */
	PVX_OP_HOOK = 3, /* str path, list of str args, list of str env, bytes stdin, u32 timeout in
	                  * seconds (0 none): an OCI hook; kill its process group when time is up;
	                  * not exit 0 → error with the tail of its output */

	/* -- hook: destinations are resolved below the root, RESOLVE_IN_ROOT -- */
	PVX_OP_ROOT = 16,       /* str path: the root for all that follows ("/" in init and exec) */
	PVX_OP_MOUNT_FS = 17,   /* str type, str source, str dest, list of (u32 flag?, str key, str
	                         * value), u64 attributes, u32 PVX_FS_*: fsopen, fsconfig, fsmount,
	                         * move_mount; a failure's text is the filesystem context's own log */
	PVX_OP_MOUNT_TREE = 18, /* fd tree, str dest, u64 MS_* propagation (0 leaves it), u32
	                         * recursive: set the propagation, make the mountpoint (a directory
	                         * or a file, as the tree), move_mount */
	PVX_OP_ATTR = 19,       /* str dest, u64 set, u64 clear, u64 propagation, u32 recursive:
	                         * mount_setattr of what is mounted at dest */
	PVX_OP_MKNOD = 20,      /* str path, u32 mode with type, u32 major, u32 minor, u32 uid, u32
	                         * gid; the same node there already is fine */
	PVX_OP_SYMLINK = 21,    /* str target, str path: EEXIST is fine */
	PVX_OP_MKDIR = 22,      /* (also init) str path, u32 mode: with parents, existing is fine */
	PVX_OP_UNSHARE_CGROUP = 23, /* (also init) a cgroup namespace of its own */
	PVX_OP_SETNS = 24,          /* (also init and sandbox) fd, u32 CLONE_NEW*: a user namespace's root
	                             * is what the process then is */
	PVX_OP_LOOPBACK = 25,       /* (also init) bring up lo */
	PVX_OP_CONFIGURE = 26,      /* str dest, list of (u32 flag?, str key, str value): change the
	                             * parameters of the filesystem whose mount is exactly at dest, a
	                             * path without symlinks */

	/* -- init, at create -- */
	PVX_OP_HOSTNAME = 32,    /* (also sandbox) str */
	PVX_OP_DOMAINNAME = 33,  /* str */
	PVX_OP_SYSCTL = 34,      /* (also sandbox) str path below /proc/sys, str value */
	PVX_OP_MASK = 35,        /* fd tree of the host's /dev/null, str path: file → that tree,
	                          * directory → empty read-only tmpfs; ENOENT is fine */
	PVX_OP_READONLY = 36,    /* str path: recursive bind, read-only; keeps other flags; ENOENT is
	                          * fine */
	PVX_OP_PROPAGATION = 37, /* u64 MS_* for every mount by itself, list of (str dest, u64 MS_*,
	                          * u32 recursive) that differ, the last that matches wins; MS_* 0
	                          * leaves the mount as it is */
	PVX_OP_ROOT_ATTR = 38,   /* u64 set, u64 propagation: of "/" alone */
	PVX_OP_TIMENS = 39,      /* str offsets: new time namespace */
	PVX_OP_UNMOUNT = 40,     /* str path: MNT_DETACH, EINVAL and ENOENT are fine */
	PVX_OP_TERMINAL = 41,    /* (also exec) u32 rows, u32 columns, u32 uid, u32 console?: pty from
	                          * /dev/pts/ptmx, master → MSG_FD, slave = stdin, stdout, stderr and
	                          * controlling tty; console: bind it over /dev/console */
	PVX_OP_LOOKPATH = 42,    /* str argv[0], str PATH, str cwd: fail now as OP_EXEC would */

	/* -- exec -- */
	PVX_OP_ENTER = 64, /* fd pidfd, fd cgroup v2 directory (or none), list of fd of v1 cgroup.procs
	                    * files, u32 CLONE_NEW* to join, u32 user namespace?, list of i32 cpus for
	                    * before the cgroup: join the pid namespace, clone3 with CLONE_PARENT (into
	                    * the cgroup); the parent exits 0; the child sends MSG_DONE and goes on */

	/* -- sandbox -- */
	PVX_OP_UNSHARE = 72,    /* u32 CLONE_NEW*: new ones; with CLONE_NEWPID the process becomes PID 1 of
	                         * it: clone3 with CLONE_PARENT, the parent exits 0, the child sends
	                         * MSG_DONE and goes on */
	PVX_OP_EMPTY_ROOT = 73, /* a mount namespace of its own, with nothing in it */
	PVX_OP_HOLD = 74,       /* keep no descriptor but the socket, leave no zombies, send MSG_DONE, and
	                         * exit when the shim closes the socket */

	/* -- init at start, exec; sandbox where it says so: the process -- */
	PVX_OP_KEYRING = 80,     /* str name: join a new session keyring; ENOSYS is fine */
	PVX_OP_PERSONALITY = 81, /* u64 */
	PVX_OP_RLIMIT = 82,      /* u32 resource, u64 soft, u64 hard, u32 raise: set; with raise only
	                          * lift the hard limit to at least `hard` */
	PVX_OP_SCHED = 83,       /* u32 policy, u64 flags, i32 nice, u32 priority, u64 runtime, u64
	                          * deadline, u64 period */
	PVX_OP_IOPRIO = 84,      /* u32 */
	PVX_OP_MEMPOLICY = 85,   /* u32 mode, list of u64 words of the node mask */
	PVX_OP_AFFINITY = 86,    /* list of i32 cpus */
	PVX_OP_UMASK = 87,       /* u32 */
	PVX_OP_LSM = 88,         /* u32 PVX_LSM_*, str label: for the next exec */
	PVX_OP_NNP = 89,         /* (also sandbox) no_new_privs */
	PVX_OP_STDIO_OWNER = 90, /* u32 uid: the container's own /dev/null for the host's at 0, 1, 2;
	                          * fchown of them where they are pipes, sockets or ttys;
	                          * EPERM, EROFS and EINVAL are fine */
	PVX_OP_HOME = 91,        /* u32 uid: take HOME from /etc/passwd (else "/") for OP_EXEC */
	PVX_OP_READY = 92,       /* MSG_FD PVX_FD_EXEC; from here errors go into that pipe */
	PVX_OP_SIGNALS = 93,     /* u32 signal for PR_SET_PDEATHSIG (0 none): default dispositions, empty
	                          * mask */
	PVX_OP_SECCOMP = 94,     /* u32 SECCOMP_FILTER_FLAG_*, bytes of struct sock_filter: load it; with
	                          * NEW_LISTENER send MSG_FD */
	PVX_OP_USER = 95,        /* (also sandbox) u64 bounding, u64 effective, u64 permitted, u64 inheritable, u64
	                          * ambient, u32 keep_sysadmin, u32 uid, u32 gid, list of u32 groups: drop
	                          * the bounding set, setgroups, setgid, setuid with the capabilities kept,
	                          * then the other four sets, as far as they can be had. keep_sysadmin:
	                          * CAP_SYS_ADMIN besides, for OP_SECCOMP; execve takes it away */
	PVX_OP_CWD = 96,         /* str path, u32 early: chdir, and it must lie inside the root
	                          * (CVE-2024-21626). early: EACCES and EPERM are fine, a later OP_CWD
	                          * tries again; one that has nothing left to do does nothing */
	PVX_OP_EXEC = 97,        /* list of str argv, list of str env: execve, looked up along PATH of env */
};

#endif
