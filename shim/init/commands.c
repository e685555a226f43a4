/* Every operation: who may do it, and the fields of its payload. */
#include "pvx.h"

#define HOOK (1u << PVX_ROLE_HOOK)
#define INIT (1u << PVX_ROLE_INIT)
#define EXEC (1u << PVX_ROLE_EXEC)
#define SANDBOX (1u << PVX_ROLE_SANDBOX)
#define ALL (HOOK | INIT | EXEC | SANDBOX)

const struct pvx_command pvx_commands[] = {
	{ PVX_OP_FDS, ALL, "u", pvx_op_fds },
	{ PVX_OP_SYNC, ALL, "u", pvx_op_sync },
	{ PVX_OP_HOOK, HOOK | INIT | EXEC, "s[s][s]bu", pvx_op_hook },

	{ PVX_OP_ROOT, HOOK, "s", pvx_op_root },
	{ PVX_OP_MOUNT_FS, HOOK, "sss[uss]qu", pvx_op_mount_fs },
	{ PVX_OP_MOUNT_TREE, HOOK, "fsqu", pvx_op_mount_tree },
	{ PVX_OP_ATTR, HOOK, "sqqqu", pvx_op_attr },
	{ PVX_OP_CONFIGURE, HOOK, "s[uss]", pvx_op_configure },
	{ PVX_OP_MKNOD, HOOK, "suuuuu", pvx_op_mknod },
	{ PVX_OP_SYMLINK, HOOK, "ss", pvx_op_symlink },
	{ PVX_OP_MKDIR, HOOK | INIT, "su", pvx_op_mkdir },
	{ PVX_OP_UNSHARE_CGROUP, HOOK | INIT, "", pvx_op_unshare_cgroup },
	{ PVX_OP_SETNS, HOOK | INIT | SANDBOX, "fu", pvx_op_setns },
	{ PVX_OP_LOOPBACK, HOOK | INIT, "", pvx_op_loopback },

	{ PVX_OP_HOSTNAME, INIT | SANDBOX, "s", pvx_op_hostname },
	{ PVX_OP_DOMAINNAME, INIT, "s", pvx_op_domainname },
	{ PVX_OP_SYSCTL, INIT | SANDBOX, "ss", pvx_op_sysctl },
	{ PVX_OP_MASK, INIT, "fs", pvx_op_mask },
	{ PVX_OP_READONLY, INIT, "s", pvx_op_readonly },
	{ PVX_OP_PROPAGATION, INIT, "q[squ]", pvx_op_propagation },
	{ PVX_OP_ROOT_ATTR, INIT, "qq", pvx_op_root_attr },
	{ PVX_OP_TIMENS, INIT, "s", pvx_op_timens },
	{ PVX_OP_UNMOUNT, INIT, "s", pvx_op_unmount },
	{ PVX_OP_TERMINAL, INIT | EXEC, "uuuu", pvx_op_terminal },
	{ PVX_OP_LOOKPATH, INIT, "sss", pvx_op_lookpath },

	{ PVX_OP_ENTER, EXEC, "fF[f]uu[u]", pvx_op_enter },

	{ PVX_OP_UNSHARE, SANDBOX, "u", pvx_op_unshare },
	{ PVX_OP_EMPTY_ROOT, SANDBOX, "", pvx_op_empty_root },
	{ PVX_OP_HOLD, SANDBOX, "", pvx_op_hold },

	{ PVX_OP_KEYRING, INIT | EXEC, "s", pvx_op_keyring },
	{ PVX_OP_PERSONALITY, INIT | EXEC, "q", pvx_op_personality },
	{ PVX_OP_RLIMIT, INIT | EXEC, "uqqu", pvx_op_rlimit },
	{ PVX_OP_SCHED, INIT | EXEC, "uquuqqq", pvx_op_sched },
	{ PVX_OP_IOPRIO, INIT | EXEC, "u", pvx_op_ioprio },
	{ PVX_OP_MEMPOLICY, INIT | EXEC, "u[q]", pvx_op_mempolicy },
	{ PVX_OP_AFFINITY, INIT | EXEC, "[u]", pvx_op_affinity },
	{ PVX_OP_UMASK, INIT | EXEC, "u", pvx_op_umask },
	{ PVX_OP_LSM, INIT | EXEC, "us", pvx_op_lsm },
	{ PVX_OP_NNP, INIT | EXEC | SANDBOX, "", pvx_op_nnp },
	{ PVX_OP_STDIO_OWNER, INIT | EXEC, "u", pvx_op_stdio_owner },
	{ PVX_OP_HOME, INIT | EXEC, "u", pvx_op_home },
	{ PVX_OP_READY, INIT | EXEC, "", pvx_op_ready },
	{ PVX_OP_SIGNALS, INIT | EXEC, "u", pvx_op_signals },
	{ PVX_OP_SECCOMP, INIT | EXEC, "ub", pvx_op_seccomp },
	{ PVX_OP_USER, INIT | EXEC | SANDBOX, "qqqqquuu[u]", pvx_op_user },
	{ PVX_OP_CWD, INIT | EXEC, "su", pvx_op_cwd },
	{ PVX_OP_EXEC, INIT | EXEC, "[s][s]", pvx_op_exec },
	{ 0, 0, "", 0 },
};
