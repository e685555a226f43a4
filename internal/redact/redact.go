// Package redact takes out of what is to be shown to strangers what may be secret: environments, arguments, and the
// values of keys that sound like it.
package redact

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Mark stands where something was.
const Mark = "(redacted)"

// secret matches keys whose values are not shown.
var secret = regexp.MustCompile(`(?i)auth|passw|secret|token|credential|username|header|private|fingerprint|apikey|api_key`)

// Tree returns a copy of decoded TOML or JSON in which the values of secret keys are Mark.
func Tree(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, value := range v {
			if secret.MatchString(key) && !isEmpty(value) {
				out[key] = Mark
			} else {
				out[key] = Tree(value)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, value := range v {
			out[i] = Tree(value)
		}
		return out
	case string:
		return URL(v)
	}
	return v
}

func isEmpty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}

// userinfo is the part of a URL that may hold a password.
var userinfo = regexp.MustCompile(`://[^/@\s]+@`)

// URL takes user and password out of URLs in a text.
func URL(text string) string { return userinfo.ReplaceAllString(text, "://"+Mark+"@") }

// keptAnnotations begin the annotations that say who a container is.
var keptAnnotations = []string{"io.kubernetes.cri.container-", "io.kubernetes.cri.sandbox-", "io.kubernetes.cri.image-name", "nerdctl/name", "nerdctl/namespace", "nerdctl/hostname"}

// Spec returns a copy of a specification without environments, arguments, and annotations of users.
func Spec(spec *specs.Spec) *specs.Spec {
	if spec == nil {
		return nil
	}
	out := *spec
	if spec.Process != nil {
		p := *spec.Process
		p.Env, p.CommandLine = marked(len(p.Env)), ""
		if len(p.Args) > 1 {
			p.Args = []string{p.Args[0], Mark}
		}
		out.Process = &p
	}
	out.Hooks = hooks(spec.Hooks)
	out.Mounts = slices.Clone(spec.Mounts)
	for i := range out.Mounts {
		m := &out.Mounts[i]
		m.Source, m.Options = URL(m.Source), options(m.Options)
	}
	if l := spec.Linux; l != nil && l.Seccomp != nil && l.Seccomp.ListenerMetadata != "" {
		linux, seccomp := *l, *l.Seccomp
		seccomp.ListenerMetadata = Mark
		linux.Seccomp = &seccomp
		out.Linux = &linux
	}
	out.Annotations = map[string]string{}
	for key, value := range maps.All(spec.Annotations) {
		if !slices.ContainsFunc(keptAnnotations, func(p string) bool { return strings.HasPrefix(key, p) }) {
			value = Mark
		}
		out.Annotations[key] = value
	}
	return &out
}

// options takes the values of secret keys out of a mount's options, such as the password of a network filesystem.
func options(list []string) []string {
	out := slices.Clone(list)
	for i, option := range out {
		// One entry may hold several, in the way of mount(8).
		parts := strings.Split(option, ",")
		for j, part := range parts {
			if key, _, ok := strings.Cut(part, "="); ok && secret.MatchString(key) {
				parts[j] = key + "=" + Mark
			}
		}
		out[i] = URL(strings.Join(parts, ","))
	}
	return out
}

func marked(n int) []string {
	if n == 0 {
		return nil
	}
	return []string{Mark}
}

func hooks(h *specs.Hooks) *specs.Hooks {
	if h == nil {
		return nil
	}
	strip := func(list []specs.Hook) []specs.Hook {
		out := slices.Clone(list)
		for i := range out {
			out[i].Env, out[i].Args = marked(len(out[i].Env)), marked(len(out[i].Args))
		}
		return out
	}
	return &specs.Hooks{
		Prestart: strip(h.Prestart), CreateRuntime: strip(h.CreateRuntime), CreateContainer: strip(h.CreateContainer),
		StartContainer: strip(h.StartContainer), Poststart: strip(h.Poststart), Poststop: strip(h.Poststop),
	}
}
