package cgroup

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// Usage is what a container has used, of the two resources that people ask for first. Stats
// has all of them and reads twenty files for it.
type Usage struct {
	// CPU is the time on all CPUs since the container was created.
	CPU time.Duration
	// Memory is in bytes, the page cache included.
	Memory uint64
}

// Usage reads the container's usage. It is the zero value when there is no cgroup.
func (g *Group) Usage() (Usage, error) {
	if g.mode == oci2lxc.CgroupUnified {
		dir := g.unified()
		if dir == "" {
			return Usage{}, nil
		}
		micros, err1 := readKey(dir, "cpu.stat", "usage_usec")
		memory, err2 := readNumber(dir, "memory.current")
		return Usage{time.Duration(micros) * time.Microsecond, memory}, joinVanished(err1, err2)
	}
	var u Usage
	var errs [2]error
	if dir := g.v1("cpuacct"); dir != "" {
		var nanos uint64
		nanos, errs[0] = readNumber(dir, "cpuacct.usage")
		u.CPU = time.Duration(nanos)
	}
	if dir := g.v1("memory"); dir != "" {
		u.Memory, errs[1] = readNumber(dir, "memory.usage_in_bytes")
	}
	return u, joinVanished(errs[:]...)
}

// joinVanished joins the errors that are not about a cgroup that has just gone.
func joinVanished(errs ...error) error {
	for i, err := range errs {
		errs[i] = ignoreVanished(err)
	}
	return errors.Join(errs...)
}

func readNumber(dir, name string) (uint64, error) {
	text, err := readFile(dir, name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s/%s: %w", dir, name, err)
	}
	return n, nil
}
