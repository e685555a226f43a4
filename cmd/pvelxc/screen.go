package main

import (
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// screen is how a command may show things.
type screen struct {
	colour, quiet bool
}

// screenOf honours --quiet, NO_COLOR and TERM=dumb, and colours a terminal only.
func screenOf(cmd *cobra.Command) screen {
	quiet, _ := cmd.Flags().GetBool("quiet")
	file, ok := cmd.OutOrStdout().(*os.File)
	colour := ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	if colour {
		_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
		colour = err == nil
	}
	return screen{colour, quiet}
}

// paint puts text into a colour of ECMA-48 (SGR), where there may be one.
func (s screen) paint(sgr, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}
