// Package timeline joins what several programs logged of one container by time: the shim,
// whose lines containerd carries, liblxc, and the monitor's last word.
package timeline

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Entry is one line.
type Entry struct {
	Time time.Time `json:"time"`
	// Source is "shim", "lxc", "monitor" or "pve".
	Source string `json:"source"`
	// Level is in lower case; empty where the source has none.
	Level   string `json:"level,omitempty"`
	Message string `json:"message"`
}

// maxLine bounds a line; what is longer is cut by its reader, not lost with all that follows.
const maxLine = 64 << 10

// Sort puts entries in the order of their times; equal times keep their order.
func Sort(entries []Entry) {
	slices.SortStableFunc(entries, func(a, b Entry) int { return a.Time.Compare(b.Time) })
}

// LXC reads liblxc's log: lines of "lxc NAME 20261128045344.554 WARN     start - file:function:line - message".
// A line of another form belongs to the one before it.
func LXC(in io.Reader) ([]Entry, error) {
	var out []Entry
	err := lines(in, func(line string) {
		f := strings.Fields(line)
		if len(f) >= 5 && f[0] == "lxc" {
			if at, err := time.ParseInLocation("20060102150405.000", f[2], time.UTC); err == nil {
				_, message, _ := strings.Cut(line, f[3])
				out = append(out, Entry{at, "lxc", strings.ToLower(f[3]), strings.TrimSpace(message)})
				return
			}
		}
		if len(out) > 0 {
			out[len(out)-1].Message += " " + strings.TrimSpace(line)
		}
	})
	return out, err
}

// Shim picks the lines of a container from containerd's log, which is logrus text
// (time="…" level=info msg="…" id=… namespace=…).
func Shim(in io.Reader, namespace, id string) ([]Entry, error) {
	var out []Entry
	err := lines(in, func(line string) {
		if e, ok := shimLine(line, namespace, id); ok {
			out = append(out, e)
		}
	})
	return out, err
}

// Journal is Shim for what `journalctl -o json` prints.
func Journal(in io.Reader, namespace, id string) ([]Entry, error) {
	var out []Entry
	err := lines(in, func(line string) {
		var record struct {
			// Message is a string, or a list of bytes where it is not UTF-8.
			Message json.RawMessage `json:"MESSAGE"`
		}
		if json.Unmarshal([]byte(line), &record) != nil {
			return
		}
		var message string
		if json.Unmarshal(record.Message, &message) != nil {
			return
		}
		for part := range strings.Lines(message) {
			if e, ok := shimLine(part, namespace, id); ok {
				out = append(out, e)
			}
		}
	})
	return out, err
}

// shimLine also takes containerd's own lines about the container.
func shimLine(line, namespace, id string) (Entry, bool) {
	// Most lines are others': look before parsing.
	if !strings.Contains(line, id) {
		return Entry{}, false
	}
	fields, order := logfmt(line)
	at, err := time.Parse(time.RFC3339Nano, fields["time"])
	if err != nil {
		return Entry{}, false
	}
	if ns := fields["namespace"]; ns != "" && ns != namespace {
		return Entry{}, false
	}
	about := fields["id"] == id || strings.Contains(fields["msg"], id) || strings.Contains(fields["error"], id)
	if !about {
		return Entry{}, false
	}
	message := fields["msg"]
	for _, key := range order {
		switch key {
		case "time", "level", "msg", "id", "namespace", "runtime":
		default:
			message += fmt.Sprintf(" %s=%q", key, fields[key])
		}
	}
	return Entry{at.UTC(), "shim", fields["level"], message}, true
}

// logfmt splits key=value and key="quoted value" pairs.
func logfmt(line string) (fields map[string]string, order []string) {
	fields = map[string]string{}
	for rest := strings.TrimSpace(line); rest != ""; rest = strings.TrimLeft(rest, " ") {
		key, after, ok := strings.Cut(rest, "=")
		if !ok || strings.ContainsAny(key, " \"") {
			break
		}
		value := ""
		if strings.HasPrefix(after, `"`) {
			end := closingQuote(after)
			if end < 0 {
				break
			}
			if json.Unmarshal([]byte(after[:end+1]), &value) != nil {
				value = after[1:end] // Go's escapes are more than JSON's
			}
			rest = after[end+1:]
		} else {
			value, rest, _ = strings.Cut(after, " ")
		}
		if _, again := fields[key]; !again {
			order = append(order, key)
		}
		fields[key] = strings.TrimSpace(value)
	}
	return fields, order
}

// closingQuote is the index of the quote that ends a string that starts with one; -1 for none.
func closingQuote(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
}

func lines(in io.Reader, each func(string)) error {
	reader := bufio.NewReaderSize(in, maxLine)
	for {
		line, err := reader.ReadSlice('\n')
		text := strings.TrimRight(string(line), "\r\n")
		for err == bufio.ErrBufferFull { // drop the rest
			_, err = reader.ReadSlice('\n')
		}
		if text != "" {
			each(text)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
	}
}
