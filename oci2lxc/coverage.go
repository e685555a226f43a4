package oci2lxc

import (
	"fmt"
	"strings"
)

// Status says what becomes of a field of the specification.
type Status string

// The three things that can become of a field.
const (
	// Mapped fields take effect. Values that the kernel could not take are refused.
	Mapped Status = "mapped"
	// Warned fields are accepted, have no effect, and give a Warning.
	Warned Status = "ignored with a warning"
	// Refused fields make the conversion fail when they are set.
	Refused Status = "refused"
)

// Row says what becomes of one field.
type Row struct {
	// Path is the field's JSON path: "[]" is an element of a list, "{}" one of an
	// object with free keys.
	Path   string
	Status Status
	// By is who carries it out: liblxc, the mount hook, PID 1 or the shim; empty for
	// fields that are not Mapped.
	By string
	// Note says how, and where the status depends on the host, when.
	Note string
}

// CoverageMarkdown is the text of docs/spec-coverage.md.
func CoverageMarkdown() string {
	var b strings.Builder
	count := map[Status]int{}
	for _, r := range Coverage {
		count[r.Status]++
	}
	b.WriteString("<!-- Written by `go test ./oci2lxc -run TestCoverageDoc -update` from oci2lxc/coverage_table.go. -->\n\n" +
		"# Coverage of the OCI runtime specification\n\n" +
		"What becomes of every field of runtime-spec 1.3's `config.json`. Nothing is dropped silently: a field\n" +
		"takes effect, or it is ignored with a warning, or the container is refused with an error that names the\n" +
		"field. A value that is not valid is always refused, also where the table says *mapped*. A test fails when\n" +
		"the specification has a field that this table lacks.\n\n")
	fmt.Fprintf(&b, "%d fields: %d mapped, %d ignored with a warning, %d refused.\n\n", len(Coverage), count[Mapped], count[Warned], count[Refused])
	b.WriteString("*By*: **liblxc** by its config, the **hook** before pivot_root inside the container's namespaces,\n" +
		"**PID 1** before it becomes the user's process, the **shim** from outside.\n")
	var order []string
	sections := map[string][]Row{}
	for _, r := range Coverage {
		name := sectionOf(r.Path)
		if sections[name] == nil {
			order = append(order, name)
		}
		sections[name] = append(sections[name], r)
	}
	for _, name := range order {
		fmt.Fprintf(&b, "\n## %s\n\n| field | status | by | how |\n|---|---|---|---|\n", name)
		for _, r := range sections[name] {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", r.Path, r.Status, r.By, strings.ReplaceAll(r.Note, "|", "\\|"))
		}
	}
	return b.String()
}

// sectionOf groups the rows under the first component of the path, two for linux.
func sectionOf(path string) string {
	parts := strings.Split(strings.NewReplacer("[]", "", "{}", "").Replace(path), ".")
	switch {
	case parts[0] == "linux" && len(parts) > 2:
		return "linux." + parts[1]
	case parts[0] == "linux":
		return "linux"
	case parts[0] == "process", parts[0] == "mounts", parts[0] == "hooks":
		return parts[0]
	case otherPlatforms[parts[0]]:
		return "other platforms"
	}
	return "container"
}

// otherPlatforms are the sections that are covered as a whole.
var otherPlatforms = map[string]bool{"solaris": true, "windows": true, "vm": true, "zos": true, "freebsd": true}
