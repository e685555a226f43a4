package conf

import (
	"regexp"
	"sync"
)

// lazy compiles a pattern when it is first used: this package is part of programs
// that start once for each container and mostly do not need it.
func lazy(pattern string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(pattern) })
}
