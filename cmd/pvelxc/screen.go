package main

import (
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// screen is how a command may show things.
type screen struct {
	// terminal is one that can move its cursor.
	terminal, colour, quiet bool
}

// screenOf honours --quiet, NO_COLOR and TERM=dumb, and colours a terminal only.
func screenOf(cmd *cobra.Command) screen {
	quiet, _ := cmd.Flags().GetBool("quiet")
	file, terminal := cmd.OutOrStdout().(*os.File)
	if terminal {
		_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
		terminal = err == nil && os.Getenv("TERM") != "dumb"
	}
	return screen{terminal: terminal, colour: terminal && os.Getenv("NO_COLOR") == "", quiet: quiet}
}

// paint puts text into a colour of ECMA-48 (SGR), where there may be one.
func (s screen) paint(sgr, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}
