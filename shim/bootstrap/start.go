package bootstrap

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

const (
	// addressFile holds the shim's address in the bundle: containerd 1.7 finds the shim by it after a restart, `delete` always.
	addressFile = "address"
	// specFile is the specification in a bundle; there is none for a sandbox that the shim holds itself.
	specFile = "config.json"
	// inputFile holds, for such a sandbox, what containerd wrote to standard input: its options come with no later request.
	inputFile = "parameters"
	// TTRPCEnv is how containerd tells its ttrpc socket, grpcEnv its other one.
	TTRPCEnv = "TTRPC_ADDRESS"
	grpcEnv  = "GRPC_ADDRESS"
	// defaultSocketDir is containerd's, unless the parameters name another.
	defaultSocketDir = "/run/containerd/s"
	// maxInput bounds what is read from standard input.
	maxInput = 10 << 20
	// processors is GOMAXPROCS of the shim: a second one for requests while output is being copied.
	processors = 2
)

// Descriptors that the spawned shim finds: its listening socket, and the pipe by which it learns that containerd knows the address.
const (
	ListenerFD = 3
	LeashFD    = 4
)

// groupAnnotations name the containers that share a shim, by rising precedence last: the first found counts.
var groupAnnotations = []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"}

// parameters is what start works with, whichever way containerd gave it.
type parameters struct {
	modern    bool // answer with a BootstrapResult
	debug     bool
	socketDir string
	ttrpc     string // containerd's ttrpc socket
	grpc      string // containerd's gRPC socket
	binary    string // containerd's program
}

// start finds or spawns the shim of the container's group and prints its address. The working directory is the bundle.
func (in *Invocation) start(stdin io.Reader, stdout io.Writer) error {
	input, err := io.ReadAll(io.LimitReader(stdin, maxInput))
	if err != nil {
		return fmt.Errorf("read parameters: %w", err)
	}
	p := in.parameters(input)
	group, err := groupOf(specFile, in.ID)
	if err != nil {
		return err
	}
	if !exists(specFile) {
		if err := os.WriteFile(inputFile, input, 0o600); err != nil {
			return fmt.Errorf("keep the sandbox's options: %w", err)
		}
	}
	socket, err := socketFor(p.socketDir, p.grpc, in.Namespace, group)
	if err != nil {
		return err
	}
	unlock, err := socket.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	version, err := in.ask(socket)
	if err != nil {
		return err
	}
	release := func() {}
	if version == 0 {
		version = currentVersion
		if release, err = in.spawn(socket, p); err != nil {
			return err
		}
	}
	if err := writeAddress(socket.Address()); err != nil {
		return err
	}
	if err := answer(stdout, p.modern, version, socket.Address()); err != nil {
		return err
	}
	release()
	return nil
}

// parameters reads what containerd 2.3 and newer send on standard input. Older ones send runtime options, or nothing; options could
// pass for parameters by accident, but not with the ids of the command line.
func (in *Invocation) parameters(input []byte) parameters {
	p := parameters{
		debug:     in.Debug,
		socketDir: defaultSocketDir,
		ttrpc:     os.Getenv(TTRPCEnv),
		grpc:      in.Address,
		binary:    in.PublishBinary,
	}
	given, err := decodeParams(input)
	if err != nil || given.id != in.ID || given.namespace != in.Namespace {
		return p
	}
	p.modern = true
	p.debug = p.debug || given.level <= levelDebug
	for _, field := range []struct {
		to   *string
		from string
	}{
		{&p.socketDir, given.socketDir},
		{&p.ttrpc, given.ttrpc},
		{&p.grpc, given.grpc},
		{&p.binary, given.binary},
	} {
		if field.from != "" {
			*field.to = field.from
		}
	}
	return p
}

// groupOf reads the group from the annotations of a spec; a container without one is its own. There is no spec of a sandbox that the
// shim is to hold itself: its id is that of its group.
func groupOf(path, id string) (string, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return "", fmt.Errorf("read spec: %w", err)
	}
	defer file.Close()
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.NewDecoder(file).Decode(&spec); err != nil {
		return "", fmt.Errorf("read spec: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	for _, name := range groupAnnotations {
		if group := spec.Annotations[name]; group != "" {
			return group, nil
		}
	}
	return id, nil
}

// spawn starts the long-lived shim. Its socket exists when spawn returns, and connections wait there until it serves. It ends again
// unless release is called before this process ends: nobody knows of a shim whose start could not answer.
func (in *Invocation) spawn(socket Socket, p parameters) (release func(), err error) {
	listener, err := socket.listen()
	if err != nil {
		return nil, err
	}
	defer func() {
		_ = listener.Close()
		if err != nil {
			socket.Remove()
		}
	}()
	program, err := shimProgram()
	if err != nil {
		return nil, err
	}
	leash, hold, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start shim: %w", err)
	}
	defer leash.Close()
	args := []string{"-namespace", in.Namespace, "-id", in.ID, "-address", p.grpc, "-publish-binary", p.binary}
	if p.debug {
		args = append(args, "-debug")
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		_ = hold.Close()
		return nil, fmt.Errorf("start shim: %w", err)
	}
	defer null.Close()
	// Not os/exec: it would fork a child first to see whether pidfds work, and this program has nothing to wait for.
	pid, err := syscall.ForkExec(program, append(append([]string{program}, args...), "serve"), &syscall.ProcAttr{
		Env:   environment(os.Environ(), p),
		Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), listener.Fd(), leash.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		_ = hold.Close()
		return nil, fmt.Errorf("start shim: %w", err)
	}
	if err := adjustOOMScore(pid); err != nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		_ = hold.Close()
		return nil, err
	}
	return func() { _, _ = hold.Write([]byte{0}) }, nil
}

// environment is the shim's: containerd's without what systemd meant for containerd alone.
func environment(environ []string, p parameters) []string {
	env := slices.DeleteFunc(slices.Clone(environ), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		switch name {
		case "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "GOMAXPROCS", TTRPCEnv, grpcEnv:
			return true
		}
		return false
	})
	// Each processor of the Go scheduler costs memory, and a shim waits most of the time. It is set here because a change at run
	// time stops the world and keeps the memory.
	return append(env, "GOMAXPROCS="+strconv.Itoa(processors), TTRPCEnv+"="+p.ttrpc, grpcEnv+"="+p.grpc)
}

// adjustOOMScore makes the shim a likelier victim of the OOM killer than containerd, our parent, by one.
func adjustOOMScore(pid int) error {
	const highest = 1000
	path := fmt.Sprintf("/proc/%d/oom_score_adj", os.Getppid())
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read containerd's OOM score: %w", err)
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("read containerd's OOM score: %w", err)
	}
	score = min(score+1, highest)
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(score)), 0); err != nil {
		return fmt.Errorf("adjust the shim's OOM score: %w", err)
	}
	return nil
}

// writeAddress leaves the address in the bundle, whole or not at all.
func writeAddress(address string) error {
	temporary := "." + addressFile
	if err := os.WriteFile(temporary, []byte(address), 0o600); err != nil {
		return fmt.Errorf("write shim address: %w", err)
	}
	if err := os.Rename(temporary, addressFile); err != nil {
		return fmt.Errorf("write shim address: %w", err)
	}
	return nil
}

// ReadAddress finds what writeAddress left in a bundle; empty if there is nothing.
func ReadAddress(bundle string) string {
	data, _ := os.ReadFile(filepath.Join(bundle, addressFile))
	return string(data)
}

// ReadInput is what containerd wrote to the standard input of the `start` of a sandbox that the shim holds itself; nil where it is
// unknown.
func ReadInput(bundle string) []byte {
	data, _ := os.ReadFile(filepath.Join(bundle, inputFile))
	return data
}

// answer tells containerd where the shim is. An old daemon gets a bare address, which 1.6 to 2.2 all take for version 2 over ttrpc.
// They ask in one form, so there is no telling whether one knows version 3 too; every shim of ours serves version 2.
func answer(stdout io.Writer, modern bool, version int32, address string) error {
	data := []byte(address)
	if modern {
		data = encodeResult(version, address)
	}
	if _, err := stdout.Write(data); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}
