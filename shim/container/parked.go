package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// now is the time of an exit that we decide ourselves.
func now() time.Time { return time.Now() }

// setOOMScore writes oom_score_adj (proc(5)), which a process inherits: the shim's
// own is low, and no container may have it. An equal value is not written, since
// that would need no privilege either.
func setOOMScore(pid, score int) error {
	path := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	have, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("process.oomScoreAdj: %w", err)
	}
	want := strconv.Itoa(score)
	if strings.TrimSpace(string(have)) == want {
		return nil
	}
	if err := os.WriteFile(path, []byte(want), 0); err != nil {
		return fmt.Errorf("process.oomScoreAdj: set %d where %s holds: %w (hint: lowering it needs CAP_SYS_RESOURCE; containerd's restrict_oom_score_adj avoids it)",
			score, strings.TrimSpace(string(have)), err)
	}
	return nil
}

// raiseLimits lifts the hard limits of the parked PID 1 to what its process wants:
// the root of a user namespace cannot do that for itself. The soft ones follow
// later, in the container.
func raiseLimits(pid int, plan *oci2lxc.Plan) error {
	if plan.IDMap == nil {
		return nil
	}
	for _, r := range plan.Process.Rlimits {
		var have unix.Rlimit
		if err := unix.Prlimit(pid, r.Resource, nil, &have); err != nil {
			return fmt.Errorf("process.rlimits: %w", err)
		}
		if r.Hard <= have.Max {
			continue
		}
		have.Max = r.Hard
		if err := unix.Prlimit(pid, r.Resource, &have, nil); err != nil {
			return fmt.Errorf("process.rlimits: raise hard limit %d to %d: %w", r.Resource, r.Hard, err)
		}
	}
	return nil
}

// processNamespace matches the only form of user namespace path whose map can be
// read from outside.
var processNamespace = regexp.MustCompile(`^/proc/([0-9]+)/ns/user$`)

// joinedIDMap reads the map of the user namespace that the specification joins; nil
// when it joins none. The rootfs and the LXC config need it.
func joinedIDMap(spec *specs.Spec) (*oci2lxc.IDMap, error) {
	if spec.Linux == nil {
		return nil, nil
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type != specs.UserNamespace || ns.Path == "" {
			continue
		}
		match := processNamespace.FindStringSubmatch(filepath.Clean(ns.Path))
		if match == nil {
			return nil, fmt.Errorf("linux.namespaces: user namespace %s: its id map can only be read of a /proc/PID/ns/user path: %w",
				ns.Path, errdefs.ErrNotImplemented)
		}
		uids, err1 := readIDMap("/proc/" + match[1] + "/uid_map")
		gids, err2 := readIDMap("/proc/" + match[1] + "/gid_map")
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("linux.namespaces: user namespace %s: %w", ns.Path, err)
		}
		return &oci2lxc.IDMap{UIDs: uids, GIDs: gids}, nil
	}
	return nil, nil
}

func readIDMap(path string) ([]specs.LinuxIDMapping, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read id map: %w", err)
	}
	return parseIDMap(string(data))
}

// parseIDMap parses uid_map and gid_map (user_namespaces(7)).
func parseIDMap(text string) ([]specs.LinuxIDMapping, error) {
	var ids []specs.LinuxIDMapping
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return nil, fmt.Errorf("read id map: bad line %q", line)
		}
		var n [3]uint32
		for i := range f {
			v, err := strconv.ParseUint(f[i], 10, 32)
			if err != nil {
				return nil, fmt.Errorf("read id map: bad line %q: %w", line, err)
			}
			n[i] = uint32(v)
		}
		ids = append(ids, specs.LinuxIDMapping{ContainerID: n[0], HostID: n[1], Size: n[2]})
	}
	return ids, nil
}
