package main

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"time"
)

// runtimeType is what clients of containerd call this runtime.
const runtimeType = "io.containerd.pvelxc.v2"

// takenForRunc returns what to say to a caller that takes this program for an OCI
// runtime like runc, as `nerdctl run --runtime pvelxc` does; empty for any other.
// Every caller of runc passes one of these flags, and no subcommand has them.
func takenForRunc(args []string) string {
	for _, a := range args {
		switch name, _, _ := strings.Cut(a, "="); name {
		case "--root", "--log", "--log-format", "--bundle", "--systemd-cgroup":
			return "pvelxc is not an OCI runtime like runc: type --runtime " + runtimeType + " instead"
		}
	}
	return ""
}

// tellRuncsCaller writes message where runc would log it: the last error there is what
// containerd shows. A caller without a log has standard error.
func tellRuncsCaller(args []string, message string) {
	path := ""
	if i := slices.Index(args, "--log"); i >= 0 && i+1 < len(args) {
		path = args[i+1]
	}
	if path == "" {
		return
	}
	line, err := json.Marshal(map[string]string{"level": "error", "msg": message, "time": time.Now().Format(time.RFC3339)})
	if err != nil {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.Write(append(line, '\n'))
}
