package container

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// idMaps are user namespaces that have no process and exist for their id maps alone,
// which mounts take from them. One is made for each map, however many mounts have it:
// the kernel wants a process to make it, for which the shim's own program is executed.
type idMaps struct {
	mu   sync.Mutex
	open map[string]*os.File
}

// userNS is the namespace that has the given map; it stays the idMaps' own.
func (m *idMaps) userNS(ids *oci2lxc.IDMap) (*os.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	uids, gids := mapText(ids.UIDs), mapText(ids.GIDs)
	key := uids + ";" + gids
	if f := m.open[key]; f != nil {
		return f, nil
	}
	f, err := mount.GetUsernsFD(uids, gids)
	if err != nil {
		return nil, fmt.Errorf("make user namespace for id map: %w", err)
	}
	if m.open == nil {
		m.open = make(map[string]*os.File)
	}
	m.open[key] = f
	return f, nil
}

// close is called when the mounts are made.
func (m *idMaps) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.open {
		_ = f.Close()
	}
	m.open = nil
}

// mapText writes mappings as containerd does: container:host:size, comma-separated.
func mapText(ids []specs.LinuxIDMapping) string {
	parts := make([]string, len(ids))
	for i, id := range ids {
		parts[i] = fmt.Sprintf("%d:%d:%d", id.ContainerID, id.HostID, id.Size)
	}
	return strings.Join(parts, ",")
}
