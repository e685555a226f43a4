package container

import (
	"encoding/json"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/shim/cgroup"
)

// warm does what the first container of a shim would do once for all, and wait for:
// encoding/json learns its types, half a millisecond for those of a specification. It
// changes nothing.
var warm = sync.OnceFunc(func() {
	cgroup.Mode()
	_ = json.Unmarshal([]byte(typicalSpec), new(specs.Spec))
	for _, value := range []any{new(state), new(specs.State)} {
		_, _ = json.Marshal(value)
	}
})

// typicalSpec has the parts that most specifications have: types are learnt as they are
// met.
const typicalSpec = `{"process":{"user":{},"args":[""],"env":[""],"capabilities":{"bounding":[""]},"rlimits":[{}]},"root":{},
"mounts":[{"options":[""]}],"annotations":{"":""},"linux":{"uidMappings":[{}],"sysctl":{"":""},"namespaces":[{}],"devices":[{}],
"resources":{"devices":[{}],"memory":{},"cpu":{},"pids":{}},"seccomp":{"syscalls":[{"names":[""],"args":[{}]}]},"maskedPaths":[""],"readonlyPaths":[""]}}`
