package container

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// runtimeConfig is the TOML text that containerd hands over for a runtime handler
// ([plugins…runtimes.pvelxc.options] ConfigBody or ConfigPath). Unknown keys are
// errors.
type runtimeConfig struct {
	// SystemdCgroup asks for systemd scopes, as the option of that name of runc's shim.
	SystemdCgroup bool `toml:"systemd_cgroup"`
	// NoNewKeyring leaves processes in the shim's session keyring.
	NoNewKeyring bool `toml:"no_new_keyring"`
	// Unprivileged puts containers without a user namespace of their own into one.
	Unprivileged bool `toml:"unprivileged"`
	// LogLevel is liblxc's.
	LogLevel string `toml:"log_level"`
}

// unprivilegedMap is the range that Proxmox VE's own unprivileged containers have
// (root:100000:65536 in /etc/subuid).
func unprivilegedMap() *oci2lxc.IDMap {
	m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	return &oci2lxc.IDMap{UIDs: m, GIDs: m}
}

// apply takes over containerd's runtime options: runc's, which clients send to any
// runtime, or the generic form with our TOML in it.
func (s *Settings) apply(any *anypb.Any) error {
	if any == nil || any.TypeUrl == "" || len(any.Value) == 0 {
		return nil
	}
	switch any.MessageName() {
	case "containerd.runc.v1.Options":
		o := new(runcoptions.Options)
		if err := proto.Unmarshal(any.Value, o); err != nil {
			return fmt.Errorf("runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		s.SystemdCgroup, s.NoNewKeyring = o.SystemdCgroup, o.NoNewKeyring
		s.IOUID, s.IOGID = o.IoUid, o.IoGid
		return nil
	case "runtimeoptions.v1.Options":
		o := new(runtimeoptions.Options)
		if err := proto.Unmarshal(any.Value, o); err != nil {
			return fmt.Errorf("runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return s.applyTOML(o)
	}
	return fmt.Errorf("runtime options of type %s are not known: %w (hint: use runtimeoptions.v1.Options with TypeUrl, ConfigPath or ConfigBody)",
		any.TypeUrl, errdefs.ErrInvalidArgument)
}

func (s *Settings) applyTOML(o *runtimeoptions.Options) error {
	text, name := o.ConfigBody, "ConfigBody"
	if len(text) == 0 && o.ConfigPath != "" {
		var err error
		if text, err = os.ReadFile(o.ConfigPath); err != nil {
			return fmt.Errorf("runtime options: %w", err)
		}
		name = o.ConfigPath
	}
	var c runtimeConfig
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&c); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) {
			return fmt.Errorf("runtime options %s: unknown key: %s: %w", name, strict.String(), errdefs.ErrInvalidArgument)
		}
		return fmt.Errorf("runtime options %s: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	s.SystemdCgroup, s.NoNewKeyring = c.SystemdCgroup, c.NoNewKeyring
	if c.Unprivileged {
		s.Unprivileged = unprivilegedMap()
	}
	if c.LogLevel != "" {
		s.LogLevel = c.LogLevel
	}
	return nil
}
