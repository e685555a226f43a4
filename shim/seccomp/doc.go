// Package seccomp turns the filter of a container's specification into the program
// that the kernel runs (config-linux.md#seccomp).
//
// libseccomp does the compiling, in the small program pvelxc-seccomp: the shim has
// no cgo, and stays small for it. Pods of a node share very few profiles, so a
// result is kept in memory and in /run/pvelxc/seccomp, and the program runs only
// for a profile that is new since boot.
//
//	Compile ── memory ── file ── pvelxc-seccomp (profile as JSON in, frame out)
//
// The frame is also the format of the file: what is read back was written whole,
// or is compiled again.
package seccomp
