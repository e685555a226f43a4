package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/pvelxc/pvelxc/internal/config"
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
	c, err := override(t.Context(), config.Default(), pack(t, &runcoptions.Options{SystemdCgroup: true, NoNewKeyring: true}))
	if err != nil {
		t.Fatal(err)
	}
	if !c.Runtime.SystemdCgroup || !c.Runtime.NoNewKeyring {
		t.Errorf("configuration is %+v", c)
	}
}

func TestOptionsInTOML(t *testing.T) {
	text := "registration = \"none\"\n[runtime]\nsystemd_cgroup = true\nunprivileged = true\nlog_level = \"DEBUG\"\n"
	path := filepath.Join(t.TempDir(), "pvelxc.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]*runtimeoptions.Options{
		"body": {ConfigBody: []byte(text)},
		"path": {ConfigPath: path},
	} {
		c, err := override(t.Context(), config.Default(), pack(t, o))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.Registration != config.RegisterNone || !c.Runtime.SystemdCgroup || !c.Runtime.Unprivileged || c.Runtime.LogLevel != "DEBUG" {
			t.Errorf("%s: configuration is %+v", name, c)
		}
	}
}

func TestBadOptionsAreRefused(t *testing.T) {
	for name, test := range map[string]struct {
		any  *anypb.Any
		want string
	}{
		"unknown key":  {pack(t, &runtimeoptions.Options{ConfigBody: []byte("[runtime]\nunprivilegd = true")}), "unprivilegd"},
		"wrong type":   {pack(t, &runtimeoptions.Options{ConfigBody: []byte("[runtime]\nunprivileged = 1")}), "runtime options"},
		"no TOML":      {pack(t, &runtimeoptions.Options{ConfigBody: []byte("=")}), "runtime options"},
		"missing file": {pack(t, &runtimeoptions.Options{ConfigPath: "/nonexistent"}), "/nonexistent"},
		"foreign type": {&anypb.Any{TypeUrl: "some.thing", Value: []byte{1}}, "some.thing"},
		"not protobuf": {&anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte{0xff}}, "runtime options"},
	} {
		_, err := override(t.Context(), config.Default(), test.any)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, test.want)
		} else if name != "missing file" && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v is not an invalid argument", name, err)
		}
	}
}

func TestNoOptions(t *testing.T) {
	for _, a := range []*anypb.Any{nil, {}, {TypeUrl: "some.thing"}} {
		if c, err := override(t.Context(), config.Default(), a); err != nil || !cmp.Equal(c, config.Default()) {
			t.Errorf("options %v: %+v, %v", a, c, err)
		}
	}
}

// TestOptionsIn: the options of a sandbox's handler are found in what each containerd writes to start.
func TestOptionsIn(t *testing.T) {
	options := pack(t, &runcoptions.Options{SystemdCgroup: true})
	params := &bootstrap.BootstrapParams{InstanceID: "sb", Namespace: "k8s.io", ContainerdVersion: "2.4.2", Extensions: []*bootstrap.Extension{{Value: options}}}
	bytes := func(m proto.Message) []byte {
		data, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, test := range map[string]struct {
		input []byte
		want  string // the type
	}{
		"2.3 and newer":        {bytes(params), options.TypeUrl},
		"older":                {bytes(options), options.TypeUrl},
		"newer, without any":   {bytes(&bootstrap.BootstrapParams{InstanceID: "sb"}), ""},
		"older, without any":   {nil, ""},
		"of another container": {bytes(&bootstrap.BootstrapParams{InstanceID: "other"}), "other"}, // which Any takes for a type
	} {
		got, err := optionsIn(test.input, "sb")
		if err != nil || got.GetTypeUrl() != test.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if test.want == options.TypeUrl && !proto.Equal(got, options) {
			t.Errorf("%s: %v", name, got)
		}
	}
	if _, err := optionsIn([]byte{0xff}, "sb"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("what is no message: %v", err)
	}
}
