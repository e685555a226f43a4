package lsm

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
)

// profiles lists what the kernel has loaded, a line "NAME (MODE)" each.
const profiles = "/sys/kernel/security/apparmor/profiles"

// ProfileLoaded says whether the kernel has the AppArmor profile name, as
// process.apparmorProfile gives it: a stack "A//&B" needs all its parts, and
// "unconfined" is always there. A change to a profile that is not loaded would fail
// only when the container's program is executed.
func ProfileLoaded(name string) (bool, error) {
	file, err := os.Open(profiles)
	if err != nil {
		return false, fmt.Errorf("list AppArmor profiles: %w", err)
	}
	defer file.Close()
	loaded, err := allLoaded(file, name)
	if err != nil {
		return false, fmt.Errorf("list AppArmor profiles: %w", err)
	}
	return loaded, nil
}

func allLoaded(list io.Reader, name string) (bool, error) {
	missing := map[string]bool{}
	for part := range strings.SplitSeq(name, "//&") {
		if part != "unconfined" {
			missing[part] = true
		}
	}
	lines := bufio.NewScanner(list)
	for len(missing) > 0 && lines.Scan() {
		// A name may have blanks and parentheses, a mode has none.
		if end := strings.LastIndex(lines.Text(), " ("); end >= 0 {
			delete(missing, lines.Text()[:end])
		}
	}
	return len(missing) == 0, lines.Err()
}
