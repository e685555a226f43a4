package redact

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestTree(t *testing.T) {
	got := fmt.Sprint(Tree(map[string]any{
		"registry": map[string]any{"configs": map[string]any{"r": map[string]any{"auth": map[string]any{"x": "S1"}, "password": "S2", "username": "S3", "Headers": []any{"S4"}}}},
		"mirrors":  []any{map[string]any{"token": "S5", "endpoint": "https://user:S6@host/x"}},
		"token":    "",
		"kept":     "value",
	}))
	for i := range 7 {
		if s := fmt.Sprint("S", i); i > 0 && strings.Contains(got, s) {
			t.Errorf("%s is in %s", s, got)
		}
	}
	if !strings.Contains(got, "kept:value") || !strings.Contains(got, "host/x") {
		t.Errorf("too much is gone: %s", got)
	}
}

// fill puts a secret into every string of a value.
func fill(v reflect.Value, depth int) {
	if depth > 6 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), depth+1)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), depth+1)
		fill(v.Index(1), depth+1)
	case reflect.String:
		v.SetString("SECRET")
	}
}

// Whatever a specification grows, nothing of a process and of hooks but what was looked at gets out.
func TestSpec(t *testing.T) {
	spec := &specs.Spec{Process: &specs.Process{}, Hooks: &specs.Hooks{}, Annotations: map[string]string{
		"io.kubernetes.cri.container-name": "web", "example.com/x": "SECRET", "nerdctl/name": "n"}}
	fill(reflect.ValueOf(&spec.Hooks).Elem(), 0)
	spec.Process.Args = []string{"program", "SECRET"}
	spec.Process.Env = []string{"PASSWORD=SECRET"}
	spec.Process.CommandLine = "SECRET"
	before, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	out := Spec(spec)
	for i := range out.Hooks.Prestart {
		out.Hooks.Prestart[i].Path = ""
	}
	text, err := json.Marshal(struct {
		P any
		A any
		H []specs.Hook
	}{out.Process, out.Annotations, out.Hooks.Prestart})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "SECRET") {
		t.Errorf("a secret is in %s", text)
	}
	for _, kept := range []string{"program", "web", `"nerdctl/name":"n"`} {
		if !strings.Contains(string(text), kept) {
			t.Errorf("%s is gone from %s", kept, text)
		}
	}
	if after, err := json.Marshal(spec); err != nil || string(after) != string(before) {
		t.Errorf("the specification was changed: %v", err)
	}
}

func TestMounts(t *testing.T) {
	const metadata = "SECRET8"
	spec := &specs.Spec{
		Mounts: []specs.Mount{
			{Type: "cifs", Source: "//server/share", Destination: "/mnt", Options: []string{"rw", "username=SECRET1", "password=SECRET2", "vers=3"}},
			{Type: "davfs", Source: "https://user:SECRET3@host/d", Options: []string{"rw,PASSWD=SECRET4,uid=5", "credentials=SECRET5"}},
		},
		Linux: &specs.Linux{Seccomp: &specs.LinuxSeccomp{ListenerMetadata: metadata}},
	}
	text := fmt.Sprint(Spec(spec).Mounts, Spec(spec).Linux.Seccomp)
	if strings.Contains(text, "SECRET") {
		t.Errorf("a secret is in %s", text)
	}
	for _, kept := range []string{"//server/share", "vers=3", "uid=5", "host/d", "password=" + Mark} {
		if !strings.Contains(text, kept) {
			t.Errorf("%s is gone from %s", kept, text)
		}
	}
	if spec.Mounts[0].Options[2] != "password=SECRET2" || spec.Linux.Seccomp.ListenerMetadata != metadata {
		t.Error("the specification was changed")
	}
}
