package task

import (
	"testing"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestExitStatus(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		for _, test := range []struct {
			script string
			want   uint32
		}{{"exit 0", 0}, {"exit 7", 7}, {"exit 255", 255}} {
			if got := e.Run(t, harness.Shell(test.script)); got.Status != test.want {
				t.Errorf("%s: status %d, want %d", test.script, got.Status, test.want)
			}
		}
	})
}
