package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"pvelxc": main}) }

// The command as a user types it; each script is a story in testdata.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PVELXC_CONFIG", e.WorkDir+"/pvelxc.toml")
			return nil
		},
	})
}
