// Command picture runs a command on a terminal of its own and draws what it printed, as an SVG: the picture of the demo in
// the README. It knows lines and colours, which is all that the demo uses; what moves the cursor is an error.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/creack/pty"
)

func main() {
	out := flag.String("o", "", "the SVG to write")
	columns := flag.Int("columns", 110, "the width of the terminal")
	title := flag.String("title", "", "what stands above the picture, and before what was printed as it would be typed")
	hide := flag.String("hide", "", "a directory of this machine, shown as ~/pvelxc")
	flag.Parse()
	if *out == "" || flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: picture -o FILE.svg [-title TEXT] [-columns N] COMMAND [ARG...]")
		os.Exit(2)
	}
	if err := run(*out, *title, *hide, *columns, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

func run(out, title, hide string, columns int, command []string) error {
	text, err := record(command, columns)
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, text)
	}
	if hide != "" {
		text = strings.ReplaceAll(text, hide, "~/pvelxc")
	}
	lines, err := parse(text, columns)
	if err != nil {
		return err
	}
	var b strings.Builder
	draw(&b, title, columns, lines)
	return os.WriteFile(out, []byte(b.String()), 0o644)
}

// record gives what a command prints on a terminal.
func record(command []string, columns int) (string, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "TERM=xterm-256color")
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: uint16(columns)})
	if err != nil {
		return "", err
	}
	defer terminal.Close()
	data, err := io.ReadAll(terminal)
	// The kernel's way to say that nobody has the other end any more.
	if errors.Is(err, syscall.EIO) {
		err = nil
	}
	return string(data), errors.Join(err, cmd.Wait())
}
