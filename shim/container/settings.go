package container

import (
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
	// Programs are the C programs beside the shim.
	Programs *Programs
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

// InstalledSettings are those of an administrator who has made no choice, without the
// programs: enough to plan a container, not to make one.
func InstalledSettings() Settings { return Settings{Root: DefaultRoot, LogLevel: "WARN"} }

// DefaultSettings are InstalledSettings with the programs beside the running executable.
func DefaultSettings() (Settings, error) {
	s := InstalledSettings()
	var err error
	s.Programs, err = findPrograms()
	return s, err
}
