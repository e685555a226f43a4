package server

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/pvelxc/pvelxc/internal/version"
	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/bootstrap"
)

// maxInput bounds what is read from standard input.
const maxInput = 10 << 20

// featuresType is what containerd calls runtime-spec's features, which travel as JSON (core/runtime/typeurl.go).
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// writeInfo prints a RuntimeInfo. CRI reads from the features whether user namespaces and idmapped mounts can be had.
func writeInfo(stdin io.Reader, stdout io.Writer) error {
	input, err := io.ReadAll(io.LimitReader(stdin, maxInput))
	if err != nil {
		return fmt.Errorf("read options: %w", err)
	}
	encoded, err := json.Marshal(oci2lxc.Features())
	if err != nil {
		return fmt.Errorf("encode features: %w", err)
	}
	release, revision := version.Release()
	info := &types.RuntimeInfo{
		Name:     bootstrap.Runtime,
		Version:  &types.RuntimeVersion{Version: release, Revision: revision},
		Features: &anypb.Any{TypeUrl: featuresType, Value: encoded},
	}
	if len(input) > 0 {
		info.Options = new(anypb.Any)
		if err := proto.Unmarshal(input, info.Options); err != nil {
			return fmt.Errorf("read options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	data, err := proto.Marshal(info)
	if err != nil {
		return fmt.Errorf("encode info: %w", err)
	}
	if _, err := stdout.Write(data); err != nil {
		return fmt.Errorf("write info: %w", err)
	}
	return nil
}

func versionText() string {
	release, revision := version.Release()
	return fmt.Sprintf("%s:\n  Version:  %s\n  Revision: %s\n  Go version: %s\n", bootstrap.Runtime, release, revision, runtime.Version())
}
