package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func pack(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	// containerd sends the bare name (typeurl), clients a URL.
	a.TypeUrl = strings.TrimPrefix(a.TypeUrl, "type.googleapis.com/")
	return a
}

func TestOptionsOfRunc(t *testing.T) {
	var s Settings
	if err := s.apply(pack(t, &runcoptions.Options{SystemdCgroup: true, NoNewKeyring: true, IoUid: 3, IoGid: 4})); err != nil {
		t.Fatal(err)
	}
	if !s.SystemdCgroup || !s.NoNewKeyring || s.IOUID != 3 || s.IOGID != 4 {
		t.Errorf("settings are %+v", s)
	}
}

func TestOptionsInTOML(t *testing.T) {
	text := "systemd_cgroup = true\nunprivileged = true\nlog_level = \"DEBUG\"\n"
	path := filepath.Join(t.TempDir(), "pvelxc.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]*runtimeoptions.Options{
		"body": {ConfigBody: []byte(text)},
		"path": {ConfigPath: path},
	} {
		var s Settings
		if err := s.apply(pack(t, o)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !s.SystemdCgroup || s.LogLevel != "DEBUG" || s.Unprivileged == nil || s.Unprivileged.UIDs[0].HostID != 100000 {
			t.Errorf("%s: settings are %+v", name, s)
		}
	}
}

func TestBadOptionsAreRefused(t *testing.T) {
	for name, test := range map[string]struct {
		any  *anypb.Any
		want string
	}{
		"unknown key":  {pack(t, &runtimeoptions.Options{ConfigBody: []byte("unprivilegd = true")}), "unprivilegd"},
		"wrong type":   {pack(t, &runtimeoptions.Options{ConfigBody: []byte("unprivileged = 1")}), "ConfigBody"},
		"no TOML":      {pack(t, &runtimeoptions.Options{ConfigBody: []byte("=")}), "ConfigBody"},
		"missing file": {pack(t, &runtimeoptions.Options{ConfigPath: "/nonexistent"}), "/nonexistent"},
		"foreign type": {&anypb.Any{TypeUrl: "some.thing", Value: []byte{1}}, "some.thing"},
		"not protobuf": {&anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte{0xff}}, "runtime options"},
	} {
		var s Settings
		err := s.apply(test.any)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, test.want)
		} else if name != "missing file" && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v is not an invalid argument", name, err)
		}
	}
}

func TestNoOptions(t *testing.T) {
	var s Settings
	for _, a := range []*anypb.Any{nil, {}, {TypeUrl: "some.thing"}} {
		if err := s.apply(a); err != nil {
			t.Errorf("options %v: %v", a, err)
		}
	}
}
