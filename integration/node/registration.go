package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

// Registered finds the one conf whose note has a text, such as a container's id or its pod's name, and
// reads it as Proxmox VE does.
func Registered(text string) (vmid string, conf *pvetest.PCT, err error) {
	paths, err := filepath.Glob(filepath.Join(harness.Registrations(), "lxc", "*.conf"))
	if err != nil {
		return "", nil, err
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue // removed meanwhile
		}
		if err != nil {
			return "", nil, err
		}
		p := pvetest.ParsePCT(string(data))
		if !strings.Contains(p.Description, text) {
			continue
		}
		if vmid != "" {
			return "", nil, fmt.Errorf("%s has two confs, %s and %s", text, vmid, path)
		}
		if _, err := p.Status(); err != nil || len(p.Warnings) > 0 {
			return "", nil, fmt.Errorf("%s: PVE warns %q, and pct list says %w", path, p.Warnings, err)
		}
		vmid, conf = strings.TrimSuffix(filepath.Base(path), ".conf"), p
	}
	if vmid == "" {
		return "", nil, fmt.Errorf("no conf has %s in its note: %w", text, os.ErrNotExist)
	}
	return vmid, conf, nil
}
