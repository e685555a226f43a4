package node

import (
	"context"
	"fmt"
	"os"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/shim/container"
	"github.com/pvelxc/pvelxc/shim/wire"
)

// configFor is the node's configuration with containerd's runtime options over it:
// runc's, which clients send to any runtime, or the generic form, which holds text
// in the format of the node's file.
func configFor(ctx context.Context, options *anypb.Any) (config.Config, error) {
	conf, err := config.Load()
	if err != nil {
		return conf, err
	}
	return override(ctx, conf, options)
}

// optionsIn finds the runtime options in what containerd writes to the standard input of a shim's start: BootstrapParams from 2.3 on,
// in which they are an extension, and themselves before. Nil stands for none.
func optionsIn(input []byte, id string) (*anypb.Any, error) {
	var instance string
	var extension []byte
	err := wire.Message(input, func(n protowire.Number, v wire.Value) error {
		switch n {
		case 1:
			return v.Text(&instance)
		case 8:
			return v.Message(func(n protowire.Number, v wire.Value) error { // Extension
				if n == 1 && extension == nil {
					extension = v.Bytes
				}
				return nil
			})
		}
		return nil
	})
	if err == nil && instance == id {
		input = extension
	}
	options := new(anypb.Any)
	if err := proto.Unmarshal(input, options); err != nil {
		return nil, fmt.Errorf("runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return options, nil
}

func override(ctx context.Context, conf config.Config, options *anypb.Any) (config.Config, error) {
	if options == nil || options.TypeUrl == "" || len(options.Value) == 0 {
		return conf, nil
	}
	switch options.MessageName() {
	case "containerd.runc.v1.Options":
		o := new(runcoptions.Options)
		if err := proto.Unmarshal(options.Value, o); err != nil {
			return conf, fmt.Errorf("runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		conf.Runtime.SystemdCgroup, conf.Runtime.NoNewKeyring = o.SystemdCgroup, o.NoNewKeyring
		warnOfRunc(ctx, o)
		if o.ShimCgroup != "" {
			conf.Runtime.ShimCgroup = o.ShimCgroup
		}
		return conf, nil
	case "runtimeoptions.v1.Options":
		o := new(runtimeoptions.Options)
		if err := proto.Unmarshal(options.Value, o); err != nil {
			return conf, fmt.Errorf("runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return overrideText(conf, o)
	}
	return conf, fmt.Errorf("runtime options of type %s are not known: %w (hint: use runtimeoptions.v1.Options with TypeUrl, ConfigPath or ConfigBody)",
		options.TypeUrl, errdefs.ErrInvalidArgument)
}

// warnOfRunc tells which of runc's options have no meaning here. IoUid and IoGid are
// not among them: streams always belong to the container's user.
func warnOfRunc(ctx context.Context, o *runcoptions.Options) {
	for _, option := range []struct {
		name   string
		given  bool
		reason string
	}{
		{"NoPivotRoot", o.NoPivotRoot, "liblxc decides how to change the root"},
		{"BinaryName", o.BinaryName != "", "no program of runc's kind is run"},
		{"Root", o.Root != "", "the state is below " + container.DefaultRoot},
		{"CriuImagePath", o.CriuImagePath != "", "the path of a checkpoint comes with the request"},
		{"CriuWorkPath", o.CriuWorkPath != "", "CRIU works in the container's own state directory"},
	} {
		if option.given {
			log.G(ctx).WithField("option", option.name).Warn("runtime option without effect: " + option.reason)
		}
	}
}

func overrideText(conf config.Config, o *runtimeoptions.Options) (config.Config, error) {
	if len(o.ConfigBody) > 0 {
		return conf.Override("runtime options", o.ConfigBody)
	}
	if o.ConfigPath == "" {
		return conf, nil
	}
	text, err := os.ReadFile(o.ConfigPath)
	if err != nil {
		return conf, fmt.Errorf("runtime options: %w", err)
	}
	return conf.Override(o.ConfigPath, text)
}
