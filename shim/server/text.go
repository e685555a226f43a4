package server

import (
	"bufio"
	"bytes"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// releaseText unmaps the pages of the shim's own program that start-up and the
// last requests have touched. They stay in the page cache, shared by all shims, and
// come back by minor faults as they are used again: an idle pod needs few of them.
func releaseText() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	for _, m := range cleanMappings(smaps, exe) {
		// What fails to be released stays, which is no harm.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.start, m.size, unix.MADV_DONTNEED)
	}
}

// mapping is a range of this process's memory.
type mapping struct{ start, size uintptr }

// cleanMappings finds, in the format of proc_pid_smaps(5), the mappings of the file
// exe that cannot be written and hold no private page. MADV_DONTNEED loses nothing
// there: every page is as it is in the file.
func cleanMappings(smaps []byte, exe string) []mapping {
	var found []mapping
	var current *mapping
	lines := bufio.NewScanner(bytes.NewReader(smaps))
	for lines.Scan() {
		line := lines.Text()
		key, value, isField := strings.Cut(line, ":")
		if !isField || strings.Contains(key, " ") {
			current = parseMapping(line, exe)
			continue
		}
		dirty := key == "Private_Dirty" || key == "Anonymous"
		if current != nil && dirty && strings.TrimSpace(value) != "0 kB" {
			current = nil
		}
		// VmFlags is the last line of a mapping.
		if current != nil && key == "VmFlags" {
			found = append(found, *current)
		}
	}
	return found
}

// parseMapping reads "start-end perms offset device inode path"; nil where it is
// not an unwritable mapping of exe.
func parseMapping(line, exe string) *mapping {
	fields := strings.Fields(line)
	if len(fields) != 6 || fields[5] != exe || len(fields[1]) != 4 || fields[1][1] == 'w' {
		return nil
	}
	from, to, ok := strings.Cut(fields[0], "-")
	if !ok {
		return nil
	}
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if err1 != nil || err2 != nil || end <= start {
		return nil
	}
	return &mapping{start: uintptr(start), size: uintptr(end - start)}
}
