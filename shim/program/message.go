package program

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// msgSize is the size of struct pvx_msg.
const msgSize = 16

// Message is one message of pvelxc-init.
type Message struct {
	Type MessageType
	// Op is the index of the operation that a MsgError speaks of.
	Op uint32
	// Err is the errno of a MsgError, else 0.
	Err syscall.Errno
	// Arg is a Role, a Sync number or an FDKind, by Type.
	Arg uint32
	// Text says what failed, for MsgError.
	Text string
	// PID, UID and GID are the sender's in the namespaces of the receiver, as
	// the kernel says (SCM_CREDENTIALS in unix(7)). An unmapped id is the overflow id.
	PID      int
	UID, GID uint32
	// Files are the descriptors that came along, now the receiver's to close.
	Files []*os.File
}

// Close closes the descriptors of a message that is not wanted.
func (m *Message) Close() {
	for _, f := range m.Files {
		f.Close()
	}
	m.Files = nil
}

func parseMessage(buf []byte) (*Message, error) {
	if len(buf) < msgSize || len(buf) > msgSize+maxText {
		return nil, fmt.Errorf("message of pvelxc-init has %d bytes, not %d to %d", len(buf), msgSize, msgSize+maxText)
	}
	return &Message{
		Type: MessageType(order.Uint32(buf)),
		Op:   order.Uint32(buf[4:]),
		Err:  syscall.Errno(order.Uint32(buf[8:])),
		Arg:  order.Uint32(buf[12:]),
		// What hooks and filesystems print may be anything.
		Text: strings.ToValidUTF8(strings.TrimSpace(string(buf[msgSize:])), "\uFFFD"),
	}, nil
}

func newMessage(t MessageType, arg uint32) []byte {
	buf := order.AppendUint32(nil, uint32(t))
	buf = order.AppendUint64(buf, 0)
	return order.AppendUint32(buf, arg)
}
