package rdt

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// compare sees that an existing class has the schemas that r wants.
func compare(class string, r *specs.LinuxIntelRdt) error {
	if r.L3CacheSchema == "" && r.MemBwSchema == "" {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(class, "schemata"))
	if err != nil {
		return fmt.Errorf("read resctrl schemata: %w", err)
	}
	have := map[string]map[string]uint64{}
	for line := range strings.Lines(string(data)) {
		resource, domains, err := parseSchema(line)
		if err != nil {
			return fmt.Errorf("resctrl class %s: %w", class, err)
		}
		have[resource] = domains
	}
	for _, want := range []struct{ field, line string }{{"l3CacheSchema", r.L3CacheSchema}, {"memBwSchema", r.MemBwSchema}} {
		if want.line == "" {
			continue
		}
		resource, domains, err := parseSchema(want.line)
		if err != nil {
			return fmt.Errorf("linux.intelRdt.%s: %w: %w", want.field, err, errdefs.ErrInvalidArgument)
		}
		for domain, value := range domains {
			if got, ok := have[resource][domain]; !ok || got != value {
				return fmt.Errorf("linux.intelRdt.%s is %q, but class %s exists with %q (hint: another closID, or no schema to take the class as it is): %w",
					want.field, want.line, class, strings.TrimSpace(string(data)), errdefs.ErrFailedPrecondition)
			}
		}
	}
	return nil
}

// parseSchema reads a line such as "L3:0=ff;1=c0" or "MB:0=20;1=70": bit masks are
// hexadecimal, bandwidths decimal.
func parseSchema(line string) (resource string, domains map[string]uint64, err error) {
	resource, list, ok := strings.Cut(strings.TrimSpace(line), ":")
	if !ok || resource == "" {
		return "", nil, fmt.Errorf("malformed schema %q", line)
	}
	base := 16
	if strings.HasPrefix(resource, "MB") || strings.HasPrefix(resource, "SMBA") {
		base = 10
	}
	domains = map[string]uint64{}
	for item := range strings.SplitSeq(list, ";") {
		domain, text, ok := strings.Cut(strings.TrimSpace(item), "=")
		id, idErr := strconv.ParseUint(domain, 10, 32)
		// The kernel pads numbers with blanks.
		value, valueErr := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(text), "0x"), base, 64)
		if !ok || idErr != nil || valueErr != nil {
			return "", nil, fmt.Errorf("malformed schema %q", line)
		}
		domains[strconv.FormatUint(id, 10)] = value
	}
	return resource, domains, nil
}
