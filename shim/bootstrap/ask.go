package bootstrap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// currentVersion is the newest version of the task service that we serve.
	currentVersion = 3
	// askTimeout bounds a question to a running shim, which answers at once if it is well.
	askTimeout = 3 * time.Second
)

// services are the versions of the task service, the newest first.
var services = []struct {
	version int32
	name    string
}{{3, "containerd.task.v3.Task"}, {2, "containerd.task.v2.Task"}}

// ask finds the newest version of the task service that the shim behind socket has: it may be older than this program. 0 means that
// there is none, or one on its way out, and that a new one is needed. The caller holds the socket's lock.
func (in *Invocation) ask(socket Socket) (version int32, err error) {
	conn, err := socket.connect()
	if err != nil || conn == nil {
		return 0, err
	}
	defer conn.Close()
	for stream, service := range services {
		code, message, err := call(conn, uint32(2*stream+1), service.name, "Connect", in.Namespace, in.ID)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.EAGAIN):
			return 0, fmt.Errorf("ask the running shim: %w (hint: the shim of this pod hangs; see its process and containerd's log)",
				context.DeadlineExceeded)
		case err != nil:
			return 0, nil // it ends, or dies
		}
		switch code {
		case 0:
			return service.version, nil
		case codeUnimplemented:
			continue
		case codeUnavailable:
			return 0, nil
		default:
			return 0, fmt.Errorf("ask the running shim: %s: %w (hint: see the shim's process and containerd's log)", message, errdefs.ErrInternal)
		}
	}
	return 0, fmt.Errorf("running shim has no task service: %w", errdefs.ErrNotImplemented)
}

// dismiss tells the shim behind socket that one of its containers is gone, and says whether it has understood. It ends when it has no
// others.
func (in *Invocation) dismiss(socket Socket) bool {
	conn, err := socket.connect()
	if err != nil || conn == nil {
		return false
	}
	defer conn.Close()
	code, _, err := call(conn, 1, services[len(services)-1].name, "Shutdown", in.Namespace, in.ID)
	return err == nil && code == 0
}

// connect returns nil where there is no socket, or nobody behind it.
func (s Socket) connect() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("connect to shim: %w", err)
	}
	conn := os.NewFile(uintptr(fd), string(s))
	limit := unix.NsecToTimeval(askTimeout.Nanoseconds())
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("connect to shim: %w", err)
		}
	}
	for {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: string(s)})
		if err != unix.EINTR {
			break
		}
	}
	if err == nil {
		return conn, nil
	}
	_ = conn.Close()
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, nil
	}
	return nil, fmt.Errorf("connect to shim: %w", err)
}

// Codes of google.rpc.Status (google/rpc/code.proto).
const (
	codeUnimplemented = 12
	codeUnavailable   = 14
)

// Frames of ttrpc (PROTOCOL.md): a header of 10 bytes, then a message.
const (
	frameHeader   = 10
	frameMax      = 4 << 20
	frameRequest  = 1
	frameResponse = 2
)

// call makes a request that has nothing but the container's id, and returns the status of the answer.
func call(conn io.ReadWriter, stream uint32, service, method, namespace, id string) (code uint64, message string, err error) {
	metadata := appendBytes(nil, 1, "containerd-namespace-ttrpc")
	metadata = appendBytes(metadata, 2, namespace)
	request := appendBytes(nil, 1, service)
	request = appendBytes(request, 2, method)
	request = appendBytes(request, 3, appendBytes(nil, 1, id))
	request = appendVarint(request, 4, uint64(askTimeout.Nanoseconds()))
	request = appendBytes(request, 5, metadata)
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(request)))
	frame = binary.BigEndian.AppendUint32(frame, stream)
	frame = append(frame, frameRequest, 0)
	if _, err := conn.Write(append(frame, request...)); err != nil {
		return 0, "", err
	}
	var header [frameHeader]byte
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return 0, "", err
	}
	size := binary.BigEndian.Uint32(header[:])
	if size > frameMax || binary.BigEndian.Uint32(header[4:]) != stream || header[8] != frameResponse {
		return 0, "", errMalformed
	}
	response := make([]byte, size)
	if _, err := io.ReadFull(conn, response); err != nil {
		return 0, "", err
	}
	return status(response)
}

// status reads the google.rpc.Status of a ttrpc response: none is success.
func status(response []byte) (code uint64, message string, err error) {
	for len(response) > 0 {
		var f field
		if f, response, err = nextField(response); err != nil {
			return 0, "", err
		}
		if f.number != 1 || f.wire != wireBytes {
			continue
		}
		for inner := f.bytes; len(inner) > 0; {
			if f, inner, err = nextField(inner); err != nil {
				return 0, "", err
			}
			switch {
			case f.number == 1 && f.wire == wireVarint:
				code = f.value
			case f.number == 2 && f.wire == wireBytes:
				message = string(f.bytes)
			}
		}
	}
	return code, message, nil
}
