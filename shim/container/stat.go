package container

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Fields of /proc/PID/stat, by their numbers in proc(5).
const (
	statParent    = 4
	statStartTime = 22
)

// parentOf is the parent of a process: the mount hook is a child of PID 1.
func parentOf(pid int) (int, error) {
	ppid, err := readStat(pid, statParent)
	if err == nil && (ppid == 0 || ppid > 1<<22) { // the kernel's PID_MAX_LIMIT
		err = fmt.Errorf("process %d has no parent that can be seen", pid)
	}
	if err != nil {
		return 0, fmt.Errorf("find PID 1: %w", err)
	}
	return int(ppid), nil
}

// startTime is when a process was started, in clock ticks since boot.
func startTime(pid int) (uint64, error) {
	n, err := readStat(pid, statStartTime)
	if err != nil {
		return 0, fmt.Errorf("read start time: %w", err)
	}
	return n, nil
}

func readStat(pid, field int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStat(string(data), field)
}

// parseStat takes a numeric field after the command name. That may hold blanks and
// parentheses, so fields are counted from the last ')'.
func parseStat(stat string, field int) (uint64, error) {
	i := strings.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, fmt.Errorf("no command name in %q", stat)
	}
	fields := strings.Fields(stat[i+1:])
	at := field - 3 // the first field after the name is number 3
	if len(fields) <= at {
		return 0, fmt.Errorf("only %d fields in %q", len(fields), stat)
	}
	return strconv.ParseUint(fields[at], 10, 64)
}

// executable is the path of a process's program, empty when the process is gone.
func executable(pid int) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return ""
	}
	return path
}
