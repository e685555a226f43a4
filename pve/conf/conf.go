package conf

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// MaxSize is the most that pmxcfs stores in one file, in bytes
// (CFS_MAX_FILE_SIZE of pve-cluster).
const MaxSize = 1 << 20

// pending names the section of changes that wait for the next start.
const pending = "pve:pending"

// Conf is one configuration file. The zero value is an empty file. It is not
// safe for concurrent use.
type Conf struct {
	// lines joined by newlines are the file. A file that ends in a newline
	// therefore ends in an empty line.
	lines []line
}

// Parse reads a file. Lines that PVE would warn about are kept as they are. It
// fails with ErrInvalidArgument for what no PVE tool can have written: a NUL
// byte, or more than MaxSize bytes.
func Parse(data []byte) (*Conf, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("conf has %d bytes, the most is %d: %w", len(data), MaxSize, errdefs.ErrInvalidArgument)
	}
	text := string(data)
	if i := strings.IndexByte(text, 0); i >= 0 {
		return nil, fmt.Errorf("conf has a NUL at byte %d: %w", i, errdefs.ErrInvalidArgument)
	}
	c := &Conf{lines: make([]line, 0, strings.Count(text, "\n")+1)}
	for l := range strings.SplitSeq(text, "\n") {
		c.lines = append(c.lines, readLine(l))
	}
	return c, nil
}

// Bytes returns the file.
func (c *Conf) Bytes() []byte {
	n := 0
	for _, l := range c.lines {
		n += len(l.text) + 1
	}
	out := make([]byte, 0, n)
	for i, l := range c.lines {
		if i > 0 {
			out = append(out, '\n')
		}
		out = append(out, l.text...)
	}
	return out
}

// Digest returns the SHA-1 of a file in hexadecimal: what PVE calls the digest
// of a configuration and compares before it writes. It guards against lost
// updates, not against an adversary.
func Digest(data []byte) string {
	sum := sha1.Sum(data)
	return hex.EncodeToString(sum[:])
}

// end returns the index of the first line that no longer belongs to the container
// itself: the first section, or the empty remainder after the last newline.
func (c *Conf) end() int {
	for i, l := range c.lines {
		if l.kind == lineSection {
			return i
		}
	}
	if n := len(c.lines); n > 0 && c.lines[n-1].text == "" {
		return n - 1
	}
	return len(c.lines)
}

// Get returns the value of key; of several the last, which is the one PVE takes.
func (c *Conf) Get(key string) (string, bool) {
	if i := c.last(lineKey, key); i >= 0 {
		return c.lines[i].value, true
	}
	return "", false
}

// Set gives key a value. It fails with ErrInvalidArgument unless the value is
// in the key's language and the key is one this project writes. A line that
// says so already is left alone; another is replaced where it stands; a new one
// goes where PVE's writer would put it.
func (c *Conf) Set(key, value string) error {
	if err := CheckValue(key, value); err != nil {
		return err
	}
	i := c.last(lineKey, key)
	if i >= 0 && c.lines[i].value == value {
		return nil
	}
	l := readLine(key + ": " + value)
	if i >= 0 {
		c.lines[i] = l
		return nil
	}
	at := c.afterComments()
	for j, other := range c.lines[:c.end()] {
		if other.kind == lineKey && other.key < key {
			at = j + 1
		}
	}
	c.insert(at, l)
	return nil
}

// Delete removes every line of key.
func (c *Conf) Delete(key string) {
	c.remove(func(l line) bool { return l.kind == lineKey && l.key == key })
}

// Raw returns the values of the raw LXC key, in order.
func (c *Conf) Raw(key string) []string {
	var values []string
	for _, l := range c.lines[:c.end()] {
		if l.kind == lineRaw && l.key == key {
			values = append(values, l.value)
		}
	}
	return values
}

// SetRaw replaces every line of the raw LXC key by one line for each value. It
// fails with ErrInvalidArgument as Set does. Equal values leave the file alone.
func (c *Conf) SetRaw(key string, values ...string) error {
	for _, v := range values {
		if err := CheckRaw(key, v); err != nil {
			return err
		}
	}
	if slices.Equal(c.Raw(key), values) {
		return nil
	}
	at := -1
	for i, l := range c.lines[:c.end()] {
		if l.kind == lineRaw && l.key == key {
			at = i
			break
		}
	}
	c.remove(func(l line) bool { return l.kind == lineRaw && l.key == key })
	if at < 0 {
		at = c.afterRaw()
	}
	lines := make([]line, len(values))
	for i, v := range values {
		lines[i] = readLine(key + ": " + v)
	}
	c.insert(at, lines...)
	return nil
}

// Sections returns the names of the snapshots and, where there is one, of the
// pending section, in the order of the file.
func (c *Conf) Sections() []string {
	var names []string
	for _, l := range c.lines {
		if l.kind == lineSection {
			names = append(names, l.value)
		}
	}
	return names
}

func (c *Conf) last(kind lineKind, key string) int {
	for i := c.end() - 1; i >= 0; i-- {
		if c.lines[i].kind == kind && c.lines[i].key == key {
			return i
		}
	}
	return -1
}

// afterComments is where the first key goes.
func (c *Conf) afterComments() int {
	for i, l := range c.lines[:c.end()] {
		if l.kind == lineKey || l.kind == lineRaw {
			return i
		}
	}
	return c.beforeGap()
}

// afterRaw is where the last raw key goes.
func (c *Conf) afterRaw() int {
	for i := c.end() - 1; i >= 0; i-- {
		if c.lines[i].kind == lineRaw || c.lines[i].kind == lineKey {
			return i + 1
		}
	}
	return c.beforeGap()
}

// beforeGap is the end of the container's part without the blank lines that part
// it from the first section.
func (c *Conf) beforeGap() int {
	i := c.end()
	for i > 0 && c.lines[i-1].kind == lineBlank {
		i--
	}
	return i
}

// insert puts lines before line i. The file keeps its final newline, and gets one
// where it had none and they came last: lines are terminated, not separated.
func (c *Conf) insert(i int, lines ...line) {
	c.lines = slices.Insert(c.lines, i, lines...)
	if len(lines) > 0 && i+len(lines) == len(c.lines) {
		c.lines = append(c.lines, line{kind: lineBlank})
	}
}

// remove drops the lines of the container's own part that match.
func (c *Conf) remove(match func(line) bool) {
	end := c.end()
	kept := slices.DeleteFunc(slices.Clone(c.lines[:end]), match)
	c.lines = append(kept, c.lines[end:]...)
}
