package node

import (
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/pvetest"
	"github.com/pvelxc/pvelxc/shim/container"
)

func TestGuest(t *testing.T) {
	plan := &oci2lxc.Plan{Rootfs: oci2lxc.Rootfs{Path: "/run/b/rootfs"}, Config: oci2lxc.Config{{Key: "lxc.signal.halt", Value: "SIGQUIT"}}}
	describe := func(hostname string, annotations map[string]string) pve.Guest {
		return guest(container.Guest{Namespace: "n", ID: "id", Plan: plan, Spec: &specs.Spec{Hostname: hostname, Annotations: annotations}})
	}
	pod := describe("h", map[string]string{criPod: "web-0", criNamespace: "default", criContainer: "nginx", criImage: "docker.io/nginx:1", nerdctlName: "x"})
	want := pve.Guest{
		Namespace: "n", ID: "id", Name: "web-0", Pod: "default/web-0", Container: "nginx", Image: "docker.io/nginx:1",
		Tags: []string{"k8s", "ns-default", "pod-web-0"}, Rootfs: "/run/b/rootfs", RootfsFallback: filepath.Join(container.DefaultRoot, "rootfs"),
		HaltSignal: "SIGQUIT", Limits: pve.Limits{Swap: pve.Unlimited},
	}
	if diff := cmp.Diff(want, pod); diff != "" {
		t.Errorf("of a pod (-want +got):\n%s", diff)
	}
	for name, got := range map[string]pve.Guest{
		"x":  describe("h", map[string]string{nerdctlName: "x", nerdctlHost: "y"}),
		"y":  describe("h", map[string]string{nerdctlHost: "y"}),
		"h":  describe("h", nil),
		"id": describe("", nil),
	} {
		if got.Name != name || strings.Join(got.Tags, ";") != "containerd;ns-n" {
			t.Errorf("name %q, tags %q, want %s of containerd", got.Name, got.Tags, name)
		}
	}
}

func TestLimits(t *testing.T) {
	i := func(v int64) *int64 { return &v }
	u := func(v uint64) *uint64 { return &v }
	for name, test := range map[string]struct {
		in   *specs.LinuxResources
		want pve.Limits
	}{
		"none":               {nil, pve.Limits{Swap: pve.Unlimited}},
		"memory":             {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i(64 << 20)}}, pve.Limits{Memory: 64 << 20, Swap: pve.Unlimited}},
		"swap beside it":     {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i(64 << 20), Swap: i(96 << 20)}}, pve.Limits{Memory: 64 << 20, Swap: 32 << 20}},
		"no swap":            {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i(64 << 20), Swap: i(64 << 20)}}, pve.Limits{Memory: 64 << 20}},
		"unlimited":          {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i(-1), Swap: i(-1)}}, pve.Limits{Swap: pve.Unlimited}},
		"half a CPU":         {&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: i(50000), Period: u(100000)}}, pve.Limits{Swap: pve.Unlimited, CPUQuota: 50000, CPUPeriod: 100000}},
		"no period":          {&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: i(50000)}}, pve.Limits{Swap: pve.Unlimited, CPUQuota: 50000, CPUPeriod: 100000}},
		"a period of zero":   {&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: i(50000), Period: u(0)}}, pve.Limits{Swap: pve.Unlimited, CPUQuota: 50000, CPUPeriod: 100000}},
		"swap alone":         {&specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: i(96 << 20)}}, pve.Limits{Swap: pve.Unlimited}},
		"no quota":           {&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: i(-1), Period: u(100000)}}, pve.Limits{Swap: pve.Unlimited}},
		"the usual weight":   {&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: u(1024)}}, pve.Limits{Swap: pve.Unlimited, CPUWeight: 100}},
		"the smallest share": {&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: u(2)}}, pve.Limits{Swap: pve.Unlimited, CPUWeight: 1}},
		"pinned":             {&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0-3"}}, pve.Limits{Swap: pve.Unlimited, CPUs: "0-3"}},
	} {
		if diff := cmp.Diff(test.want, limits(test.in)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// hostile are what the names of pods and images are made of here.
var hostile = []string{"a", "Z9", "-", "_", ".", " ", "\n", "\r", "\x00", ":", "=", "#", "%41", ";", ",", "/../", "\n[pve:pending]\n", "\nprotection: 0\n",
	"snapstate: delete", "`", "ü", "\u2028", "\xff", "😀", strings.Repeat("long", 80)}

// secret is in every specification where it must not come out.
const secret = "hunter2-hunter2"

func randomSpec(rng *rand.Rand) *specs.Spec {
	text := func() string {
		var b strings.Builder
		for range rng.IntN(6) {
			b.WriteString(hostile[rng.IntN(len(hostile))])
		}
		return b.String()
	}
	s := &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "rootfs"}, Annotations: map[string]string{},
		Process: &specs.Process{Cwd: "/", Args: []string{"/bin/" + secret}, Env: []string{"PASSWORD=" + secret}},
		Linux:   &specs.Linux{Resources: &specs.LinuxResources{}, Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.UTSNamespace}}},
	}
	for _, key := range []string{criPod, criNamespace, criContainer, criImage, nerdctlName, nerdctlHost} {
		if rng.IntN(2) == 0 {
			s.Annotations[key] = text()
		}
	}
	if rng.IntN(2) == 0 {
		limit := rng.Int64N(1 << (4 + rng.IntN(40)))
		swap := limit + rng.Int64N(1<<30)
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &swap}
	}
	if rng.IntN(2) == 0 {
		quota, period, shares := rng.Int64N(1<<30)-1, uint64(1000+rng.IntN(999000)), rng.Uint64N(300000)
		s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period, Shares: &shares, Cpus: fmt.Sprintf("%d-%d", rng.IntN(4), 4+rng.IntN(60))}
	}
	if rng.IntN(3) == 0 {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1 + rng.Uint32N(1<<30), Size: 1 + rng.Uint32N(1<<20)}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = m, m
	}
	return s
}

// TestTenThousandSpecs: whatever the pod is called and limited to, the conf that its specification leads to is one
// that PVE reads without a warning, with the values that were meant, and writes again as it is. PVE's reading is
// pvetest's, which shares no code with the writer.
func TestTenThousandSpecs(t *testing.T) {
	reader, err := pve.Reader(pve.Registrar{Root: filepath.Join(t.TempDir(), "pve"), Local: true, Node: "n1", HostCPUs: "0-7"})
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for written := 0; written < 10000; {
		spec := randomSpec(rng)
		id := fmt.Sprintf("c%d", written)
		plan, err := oci2lxc.Convert(spec, oci2lxc.Options{ID: id, Namespace: "k8s.io", Bundle: "/run/b", Name: "900000", InitPath: "/usr/bin/pvelxc-init", CgroupMode: oci2lxc.CgroupUnified})
		if err != nil {
			continue // refused as a specification, whatever registration says
		}
		g := guest(container.Guest{Namespace: "k8s.io", ID: id, Bundle: "/run/b", Spec: spec, Plan: plan})
		c, err := reader.Render(g)
		if err != nil {
			t.Fatalf("%+v is refused: %v", spec.Annotations, err)
		}
		written++
		data := string(c.Bytes())
		theirs := pvetest.ParsePCT(data)
		if len(theirs.Warnings) > 0 || theirs.Write() != data {
			t.Fatalf("PVE warns %q, and would write\n%s\ninstead of\n%s", theirs.Warnings, theirs.Write(), data)
		}
		status, err := theirs.Status()
		if err != nil {
			t.Fatalf("pct list dies: %v\n%s", err, data)
		}
		if strings.Contains(data, secret) {
			t.Fatalf("the environment or the arguments are in\n%s", data)
		}
		if status.Name == "" || theirs.Keys["arch"] != "" || theirs.Keys["protection"] != "1" || theirs.Keys["lock"] != "create" {
			t.Fatalf("keys %v", theirs.Keys)
		}
		if (plan.IDMap != nil) != (theirs.Keys["unprivileged"] == "1") {
			t.Fatalf("unprivileged is %s, id map %v", theirs.Keys["unprivileged"], plan.IDMap)
		}
		if m := spec.Linux.Resources.Memory; m != nil && *m.Limit > 16<<20 && *m.Limit < 1<<30 {
			if want := (*m.Limit + 1<<20 - 1) >> 20 << 20; status.MaxMemory != want {
				t.Fatalf("PVE shows %d of memory for a limit of %d, want %d", status.MaxMemory, *m.Limit, want)
			}
		}
		if cpu := spec.Linux.Resources.CPU; cpu != nil && *cpu.Quota > 0 {
			cores := math.Ceil(float64(*cpu.Quota) / float64(*cpu.Period))
			if float64(status.CPU) > cores {
				t.Fatalf("PVE shows %d cores for a quota of %d in %d", status.CPU, *cpu.Quota, *cpu.Period)
			}
		}
	}
}
