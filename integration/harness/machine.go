package harness

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// onMachine says that the tests run on the machine itself, without a sandbox around them: one that is
// thrown away afterwards. systemd needs it, because it knows the processes of one PID namespace only,
// that of the machine.
func onMachine() bool { return os.Getenv("PVELXC_TEST_SANDBOX") == "off" }

// machineStage runs body where it is.
func machineStage(body func() int) int {
	work, err := os.MkdirTemp("", "pvelxc-it-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		return 125
	}
	defer os.RemoveAll(work)
	if err := os.Chmod(work, 0o711); err != nil { // user namespaces must get through
		fmt.Fprintln(os.Stderr, "harness:", err)
		return 125
	}
	enter(work)
	defer removeCgroups()
	defer stopShared()
	return body()
}

// kernelThread tells from the text of /proc/<pid>/stat: the machine's list of processes has them, a
// sandbox's has not.
func kernelThread(stat string) bool {
	const flag = 0x00200000 // PF_KTHREAD in the kernel's include/linux/sched.h
	_, after, _ := strings.Cut(stat, ") ")
	fields := strings.Fields(after) // from the third, the state, on
	if len(fields) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	return err == nil && flags&flag != 0
}
