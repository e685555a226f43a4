package program

// Magic and Version open every program (struct pvx_header).
const (
	Magic   uint32 = 0x58565031
	Version uint32 = 1
)

// Limits of the format, in bytes and descriptors (shim/init/protocol.h).
const (
	maxProgram    = 64 << 20
	maxFDs        = 4096
	maxFDsMessage = 128
	maxContainer  = 16384 // bytes
	maxText       = 1024
)

// noFD stands where an operation goes without a descriptor.
const noFD uint32 = 0xffffffff

// FSCopyUp and FSKeepMode are the flags of MountFS.
const (
	// FSCopyUp fills the new filesystem with what the destination holds.
	FSCopyUp uint32 = 1
	// FSKeepMode gives its root the mode of the destination, if that existed.
	FSKeepMode uint32 = 2
)

// The kinds of LSM (process.apparmorProfile, process.selinuxLabel).
const (
	LSMAppArmor uint32 = 1
	LSMSELinux  uint32 = 2
)

// opcode is enum pvx_op_code of shim/init/protocol.h.
type opcode uint32

// The operations, with the names and numbers of protocol.h, where each one's
// fields and effect are described.
const (
	opFDS  opcode = 1
	opSync opcode = 2
	opHook opcode = 3

	opRoot          opcode = 16
	opMountFS       opcode = 17
	opMountTree     opcode = 18
	opAttr          opcode = 19
	opMknod         opcode = 20
	opSymlink       opcode = 21
	opMkdir         opcode = 22
	opUnshareCgroup opcode = 23
	opSetns         opcode = 24
	opLoopback      opcode = 25
	opConfigure     opcode = 26

	opHostname    opcode = 32
	opDomainname  opcode = 33
	opSysctl      opcode = 34
	opMask        opcode = 35
	opReadonly    opcode = 36
	opPropagation opcode = 37
	opRootAttr    opcode = 38
	opTimens      opcode = 39
	opUnmount     opcode = 40
	opTerminal    opcode = 41
	opLookpath    opcode = 42

	opEnter opcode = 64

	opUnshare   opcode = 72
	opEmptyRoot opcode = 73
	opHold      opcode = 74

	opKeyring     opcode = 80
	opPersonality opcode = 81
	opRlimit      opcode = 82
	opSched       opcode = 83
	opIoprio      opcode = 84
	opMempolicy   opcode = 85
	opAffinity    opcode = 86
	opUmask       opcode = 87
	opLSM         opcode = 88
	opNNP         opcode = 89
	opStdioOwner  opcode = 90
	opHome        opcode = 91
	opReady       opcode = 92
	opSignals     opcode = 93
	opSeccomp     opcode = 94
	opUser        opcode = 95
	opCwd         opcode = 96
	opExec        opcode = 97
)

// MessageType is enum pvx_msg_type of shim/init/protocol.h.
type MessageType uint32

// The messages of pvelxc-init to the shim, then those of the shim.
const (
	// MsgHello is a role's first message; Message.Arg is the Role.
	MsgHello MessageType = 1
	// MsgSync says that everything before a Sync was done; Message.Arg is its
	// number. The sender waits for MsgGo.
	MsgSync MessageType = 2
	// MsgFD brings one descriptor; Message.Arg is the FDKind.
	MsgFD MessageType = 3
	// MsgError says that the program failed; see Program.Error. The sender exits.
	MsgError MessageType = 4
	// MsgDone says that a hook's program is through; for exec, and for a sandbox with a
	// PID namespace, it is the first message of the process that now is in the container
	// or is PID 1: Message.PID is its pid. Such a PID 1 sends it again when it holds.
	MsgDone MessageType = 5
	// MsgExit is pvelxc-monitor's last message: the container has ended;
	// Message.Arg is its exit status, 0..255.
	MsgExit MessageType = 6

	// MsgProgram answers MsgHello; see Conn.SendProgram.
	MsgProgram MessageType = 16
	// MsgFDs brings descriptors for a program.
	MsgFDs MessageType = 17
	// MsgGo answers MsgSync.
	MsgGo MessageType = 18
	// MsgContainer is for pvelxc-monitor; see Conn.SendContainer.
	MsgContainer MessageType = 19
)

// Role is what pvelxc-init was started as (enum pvx_role).
type Role uint32

// The roles of pvelxc-init.
const (
	RoleHook    Role = 1
	RoleInit    Role = 2
	RoleExec    Role = 3
	RoleSandbox Role = 4
)

// FDKind says what the descriptor of a MsgFD is (enum pvx_fd_kind).
type FDKind uint32

// The kinds of descriptors that pvelxc-init sends.
const (
	// FDConsole is the master of the process's pseudoterminal.
	FDConsole FDKind = 1
	// FDSeccomp is the listener of a filter with SCMP_ACT_NOTIFY (seccomp_unotify(2)).
	FDSeccomp FDKind = 2
	// FDExec is the read end of a pipe: see Program.WaitExec.
	FDExec FDKind = 3
)

// The numbers of Sync.
const (
	// SyncMounted comes from the hook: all mounts and devices are there, the root is
	// not pivoted. The shim runs the prestart and createRuntime hooks, then sends
	// MsgGo; the hook goes on with the createContainer hooks and ends with MsgDone.
	SyncMounted uint32 = 1
	// SyncCreated comes from init: the container is created. MsgGo starts it. It comes
	// from a sandbox, too: its namespaces are what they should be.
	SyncCreated uint32 = 2
)
