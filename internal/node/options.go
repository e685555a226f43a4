package node

import (
	"fmt"
	"os"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/pvelxc/pvelxc/internal/config"
)

// configFor is the node's configuration with containerd's runtime options over it:
// runc's, which clients send to any runtime, or the generic form, which holds text
// in the format of the node's file.
func configFor(options *anypb.Any) (config.Config, error) {
	conf, err := config.Load()
	if err != nil {
		return conf, err
	}
	return override(conf, options)
}

func override(conf config.Config, options *anypb.Any) (config.Config, error) {
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
