// Package version says which release a program is of.
package version

import "runtime/debug"

// release is set by the linker in releases; see dist/package/build.sh.
var release string

// Release is the version and, where it is known, the commit that the program was built from.
func Release() (version, revision string) {
	version = release
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return version, ""
	}
	if version == "" {
		version = build.Main.Version
	}
	if version == "" {
		version = "(devel)"
	}
	for _, setting := range build.Settings {
		if setting.Key == "vcs.revision" {
			revision = setting.Value
		}
	}
	return version, revision
}
