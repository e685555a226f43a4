package pve

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestKeys: what PVE shows is in its own bounds and the host's, and never less than what is in force.
func TestKeys(t *testing.T) {
	h := host{memory: 64 << 30, swap: 8 << 30, cpus: "0-7"}
	plain := map[string]string{keyMemory: "65536", keySwap: "0", rawCPUs: "0-7"}
	for name, test := range map[string]struct {
		limits Limits
		host   host
		want   map[string]string // beside plain
	}{
		"nothing":                   {Limits{}, h, nil},
		"memory beyond the host's":  {Limits{Memory: 128 << 30}, h, nil},
		"memory that is negative":   {Limits{Memory: -1}, h, nil},
		"a host that is not known":  {Limits{Memory: 128 << 30, Swap: 1 << 30}, host{cpus: "0-7"}, map[string]string{keyMemory: "131072", keySwap: "1024"}},
		"less memory than PVE has":  {Limits{Memory: 1}, h, map[string]string{keyMemory: "16"}},
		"a byte more":               {Limits{Memory: 32<<20 + 1}, h, map[string]string{keyMemory: "33"}},
		"swap beyond the host's":    {Limits{Swap: 16 << 30}, h, map[string]string{keySwap: "8192"}},
		"all swap":                  {Limits{Swap: Unlimited}, h, map[string]string{keySwap: "8192"}},
		"a quota":                   {Limits{CPUQuota: 210, CPUPeriod: 100}, h, map[string]string{keyCPULimit: "2.1", keyCores: "3"}},
		"a whole quota":             {Limits{CPUQuota: 200, CPUPeriod: 100}, h, map[string]string{keyCPULimit: "2", keyCores: "2"}},
		"a quota below the CPUs":    {Limits{CPUs: "0-3", CPUQuota: 150, CPUPeriod: 100}, h, map[string]string{keyCPULimit: "1.5", keyCores: "2", rawCPUs: "0-3"}},
		"CPUs below the quota":      {Limits{CPUs: "1,4", CPUQuota: 800, CPUPeriod: 100}, h, map[string]string{keyCPULimit: "8", keyCores: "2", rawCPUs: "1,4"}},
		"next to nothing":           {Limits{CPUQuota: 1, CPUPeriod: 1 << 40}, h, map[string]string{keyCPULimit: "0.0001", keyCores: "1"}},
		"more than PVE has":         {Limits{CPUQuota: 1 << 40, CPUPeriod: 1}, h, map[string]string{keyCPULimit: "8192", keyCores: "8192"}},
		"more CPUs than PVE has":    {Limits{CPUs: "0-9999"}, h, map[string]string{keyCores: "8192", rawCPUs: "0-9999"}},
		"a quota without a period":  {Limits{CPUQuota: 100}, h, nil},
		"a weight":                  {Limits{CPUWeight: 79}, h, map[string]string{keyCPUUnits: "79"}},
		"a weight beyond the group": {Limits{CPUWeight: 20000}, h, map[string]string{keyCPUUnits: "10000"}},
	} {
		want := map[string]string{}
		for _, from := range []map[string]string{plain, test.want} {
			for key, value := range from {
				want[key] = value
			}
		}
		if diff := cmp.Diff(want, test.limits.keys(test.host)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for list, want := range map[string]int{"0": 1, "0-3,8": 5, "3-1": 0, "": 0, "a": 0, "0-": 0, "0-3,": 0} {
		if got := countCPUs(list); got != want {
			t.Errorf("%q are %d CPUs, want %d", list, got, want)
		}
	}
}

func TestNext(t *testing.T) {
	r := Range{200, 204}
	for v, want := range map[VMID]VMID{200: 201, 203: 204, 204: 200, 100: 200, 300: 200, 0: 200} {
		if got := r.next(v); got != want {
			t.Errorf("after %d comes %d, want %d", v, got, want)
		}
	}
}
