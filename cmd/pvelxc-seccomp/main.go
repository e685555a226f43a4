// Command pvelxc-seccomp compiles a seccomp profile: linux.seccomp of a container's
// specification as JSON on standard input, a frame of package shim/seccomp on
// standard output. It is a program of its own because libseccomp needs cgo, which
// the shim has not. An error is one line on standard error and exit status 1.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/shim/seccomp"
)

// maxProfile bounds the input; the largest profiles in use have some 100 kB.
const maxProfile = 16 << 20

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	data, err := io.ReadAll(io.LimitReader(in, maxProfile+1))
	if err != nil {
		return fmt.Errorf("read the profile: %w", err)
	}
	if len(data) > maxProfile {
		return fmt.Errorf("the profile is larger than %d bytes", maxProfile)
	}
	var profile specs.LinuxSeccomp
	if err := json.Unmarshal(data, &profile); err != nil {
		return fmt.Errorf("read the profile: %w", err)
	}
	filter, err := compile(&profile)
	if err != nil {
		return err
	}
	frame, err := seccomp.Encode(filter)
	if err != nil {
		return err
	}
	if _, err := out.Write(frame); err != nil {
		return fmt.Errorf("write the filter: %w", err)
	}
	return nil
}
