package container

import (
	"encoding/json"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// mergeLimits is what holds after an update: fields that the update leaves unset
// stay as they were. Neither argument is changed.
func mergeLimits(before, update *specs.LinuxResources) *specs.LinuxResources {
	after := new(specs.LinuxResources)
	for _, r := range []*specs.LinuxResources{before, update} {
		if r == nil {
			continue
		}
		data, err := json.Marshal(r)
		if err != nil {
			return update // cannot be: the value came from JSON
		}
		// Unmarshal changes what is in its input, and omitempty leaves out the rest.
		if err := json.Unmarshal(data, after); err != nil {
			return update
		}
	}
	return after
}
