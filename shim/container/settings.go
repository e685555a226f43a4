package container

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/layout"
)

// DefaultRoot is where running containers keep their state.
const DefaultRoot = layout.Root

// Settings are the administrator's choices for one container.
type Settings struct {
	// Root is the state directory; lxcpath of unregistered containers is
	// Root/lxc/<namespace>.
	Root string
	// InitPath and MonitorPath are the C programs beside the shim.
	InitPath, MonitorPath string
	// SystemdCgroup asks for systemd scopes: a cgroups path is slice:prefix:name then.
	// Without it colons are part of a group's name, as in runc.
	SystemdCgroup bool
	// NoNewKeyring leaves processes in the shim's session keyring.
	NoNewKeyring bool
	// Unprivileged puts containers that have no user namespace of their own into
	// one; nil leaves them in the host's.
	Unprivileged *oci2lxc.IDMap
	// LogLevel is liblxc's ("WARN"); its log is Root/lxc/<namespace>/<id>/lxc.log.
	LogLevel string
}

// InstalledSettings name the C programs beside the running executable, which need not
// be there.
func InstalledSettings() Settings {
	dir := "/usr/bin"
	if self, err := os.Executable(); err == nil {
		dir = filepath.Dir(self)
	}
	return Settings{
		Root:        DefaultRoot,
		InitPath:    filepath.Join(dir, "pvelxc-init"),
		MonitorPath: filepath.Join(dir, "pvelxc-monitor"),
		LogLevel:    "WARN",
	}
}

// DefaultSettings finds the C programs beside the running executable.
func DefaultSettings() (Settings, error) {
	s := InstalledSettings()
	for _, p := range []string{s.InitPath, s.MonitorPath} {
		if _, err := os.Stat(p); err != nil {
			return Settings{}, fmt.Errorf("%w (hint: pvelxc-init and pvelxc-monitor belong beside the shim)", err)
		}
	}
	return s, nil
}
