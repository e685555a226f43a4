package stdio

import (
	"os"

	"github.com/pvelxc/pvelxc/shim/null"
)

// Child holds the ends of streams that a process gets as 0, 1 and 2. Several may be one file.
type Child struct {
	Stdin, Stdout, Stderr *os.File
}

// NullChild is the null device three times. The caller closes it.
func NullChild() (Child, error) {
	device, err := null.Open()
	if err != nil {
		return Child{}, err
	}
	return Child{Stdin: device, Stdout: device, Stderr: device}, nil
}

// Close closes what is open of it. It may be called again.
func (c Child) Close() {
	for _, file := range []*os.File{c.Stdin, c.Stdout, c.Stderr} {
		if file != nil {
			_ = file.Close() // closed already, where several are one file
		}
	}
}
