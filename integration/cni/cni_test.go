// Package cni tests the sample networks of dist/cni: pods on the bridges that a Proxmox VE node has.
package cni

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/node"
)

func TestMain(m *testing.M) { harness.Main(m) }

const samples = "../../dist/cni"

// Runtime handlers, each with the sample of its name as its network.
const (
	lan  = "vmbr0"
	vlan = "vmbr0-vlan"
	vnet = "sdn-vnet"
	// Another vnet: the same sample with another bridge and subnet.
	other = "sdn-vnet-2"
)

// bridges are what Proxmox VE makes on a node: vmbr0 with the node's address, and here with its router's,
// and two vnets with the gateways of their subnets.
const bridges = `
ip link add vmbr0 type bridge
ip addr add 192.168.1.10/24 dev vmbr0
ip addr add 192.168.1.1/24 dev vmbr0
ip link set vmbr0 up
ip link add pods type bridge
ip addr add 10.30.0.1/24 dev pods
ip link set pods up
ip link add guests type bridge
ip addr add 10.31.0.1/24 dev guests
ip link set guests up
echo 1 >/proc/sys/net/ipv4/ip_forward
`

// network is a node with the sample networks.
type network struct {
	*node.Node
	ctx context.Context
	t   *testing.T
}

// start runs a node in the sandbox's network namespace, which has the bridges.
func start(t *testing.T) *network {
	t.Helper()
	harness.NeedsRoot(t)
	run(t, "sh", "-ec", bridges)
	t.Cleanup(func() { run(t, "sh", "-ec", "ip link del vmbr0; ip link del pods; ip link del guests") })
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	dir := filepath.Join(harness.Work, "cni")
	n, err := node.Start(ctx, dir, daemon.Containerd2, func(c *daemon.CRI) {
		c.Handlers = append(c.Handlers, handler(t, dir, lan), handler(t, dir, vlan), handler(t, dir, vnet), handler(t, dir, other))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's log ends with:\n%s", n.LogTail(15))
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return &network{n, ctx, t}
}

// handler is a runtime handler whose pods are on the network of a sample.
func handler(t *testing.T, dir, sample string) daemon.Handler {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(samples, strings.TrimSuffix(sample, "-2")+".conflist"))
	if err != nil {
		t.Fatal(err)
	}
	if sample == other {
		text = []byte(strings.NewReplacer("pods", "guests", "10.30.", "10.31.").Replace(string(text)))
	}
	conf := filepath.Join(dir, sample+".d")
	if err := os.MkdirAll(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(conf, sample+".conflist"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return daemon.Handler{Name: sample, Type: harness.Pvelxc.Type, NetworkDir: conf}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// server is a pod that says its name on port 8080.
type server struct {
	*node.Container
	name, ip string
	n        *network
}

// serve runs one on a sample's network.
func (n *network) serve(handler string, change ...func(*cri.PodSandboxConfig)) *server {
	n.t.Helper()
	config := n.PodConfig()
	for _, c := range change {
		c(config)
	}
	p, err := n.RunPod(n.ctx, handler, config)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		if err := p.Remove(context.Background()); err != nil {
			n.t.Error(err)
		}
	})
	ip, err := p.IP(n.ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	c, err := p.Create(n.ctx, p.ContainerConfig("mkdir /www && hostname > /www/index.html && exec httpd -f -p 8080 -h /www"))
	if err == nil {
		err = c.Start(n.ctx)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	s := &server{c, config.Hostname, ip, n}
	harness.Eventually(n.t, "the server", func() error {
		if got := s.get("127.0.0.1:8080"); got != s.name {
			return fmt.Errorf("it says %q", got)
		}
		return nil
	})
	return s
}

// get fetches a page from within the pod; empty when there is no answer.
func (s *server) get(address string) string {
	s.n.t.Helper()
	got, err := s.Exec(s.n.ctx, "timeout", "3", "wget", "-q", "-O", "-", "http://"+address+"/")
	if err != nil {
		s.n.t.Fatal(err)
	}
	return strings.TrimSpace(string(got.Stdout))
}

// get fetches a page from the node.
func (n *network) get(address string) string {
	conn, err := net.DialTimeout("tcp", address, 2*time.Second)
	if err != nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
	page, _ := io.ReadAll(conn)
	_, body, _ := bytes.Cut(page, []byte("\r\n\r\n"))
	return strings.TrimSpace(string(body))
}

// reached fails the test when something that must be reached is not, in time.
func (n *network) reached(what, want string, get func() string) {
	n.t.Helper()
	harness.Eventually(n.t, what, func() error {
		if got := get(); got != want {
			return fmt.Errorf("%q answers, want %q", got, want)
		}
		return nil
	})
}

// refused fails the test when something answers that must not. It is to be asked after what must answer
// does, so that silence is not that of a network that is not there yet.
func (n *network) refused(what string, get func() string) {
	n.t.Helper()
	if got := get(); got != "" {
		n.t.Errorf("%s: %q answers", what, got)
	}
}

func port(host int32) func(*cri.PodSandboxConfig) {
	return func(c *cri.PodSandboxConfig) {
		c.PortMappings = []*cri.PortMapping{{Protocol: cri.Protocol_TCP, ContainerPort: 8080, HostPort: host}}
	}
}

// TestNetworks: who reaches whom.
func TestNetworks(t *testing.T) {
	n := start(t)
	a, b := n.serve(lan, port(18001)), n.serve(lan)
	c, d := n.serve(vnet, port(18002)), n.serve(vnet)

	for _, s := range []*server{a, b} {
		if !strings.HasPrefix(s.ip, "192.168.1.2") {
			t.Errorf("a pod on the LAN has the address %s", s.ip)
		}
	}
	n.reached("a pod on the LAN, from another", b.name, func() string { return a.get(b.ip + ":8080") })
	n.reached("a pod on the LAN, from the node", a.name, func() string { return n.get(a.ip + ":8080") })
	n.reached("a published port on the LAN, from the node", a.name, func() string { return n.get("192.168.1.10:18001") })
	n.reached("a published port on the LAN, on the node's loopback", a.name, func() string { return n.get("127.0.0.1:18001") })
	n.reached("a published port on the LAN, from a pod", a.name, func() string { return b.get("192.168.1.10:18001") })

	n.reached("a pod on the vnet, from another", d.name, func() string { return c.get(d.ip + ":8080") })
	n.reached("a pod on the vnet, from the node", c.name, func() string { return n.get(c.ip + ":8080") })
	n.reached("a published port on the vnet, from the node", c.name, func() string { return n.get("10.30.0.1:18002") })
	n.reached("a pod on the LAN, from one on the vnet", a.name, func() string { return c.get(a.ip + ":8080") })

	e := n.serve(other)
	n.reached("a pod on another vnet, from the node", e.name, func() string { return n.get(e.ip + ":8080") })
	n.reached("a pod on the LAN, from one on another vnet", a.name, func() string { return e.get(a.ip + ":8080") })
	n.refused("a pod on the vnet, from another vnet", func() string { return e.get(c.ip + ":8080") })
	n.refused("a pod on another vnet, from the vnet", func() string { return d.get(e.ip + ":8080") })
}

// TestBandwidth: the annotations of a pod limit its traffic.
func TestBandwidth(t *testing.T) {
	n := start(t)
	n.serve(vnet, func(c *cri.PodSandboxConfig) {
		c.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "20M"}
	})
	disciplines := run(t, "tc", "qdisc", "show")
	for _, rate := range []string{"rate 10Mbit", "rate 20Mbit"} {
		if !strings.Contains(disciplines, rate) {
			t.Errorf("no %q among\n%s", rate, disciplines)
		}
	}
}

// TestVLAN: pods in a VLAN reach each other, and nobody else, unless a router lets them.
func TestVLAN(t *testing.T) {
	harness.NeedsRoot(t)
	if out, err := exec.Command("ip", "link", "add", "trial", "type", "bridge", "vlan_filtering", "1").CombinedOutput(); err != nil {
		t.Skipf("the kernel's bridges know no VLANs: %s", out)
	}
	run(t, "ip", "link", "del", "trial")
	n := start(t)
	run(t, "ip", "link", "set", "vmbr0", "type", "bridge", "vlan_filtering", "1")
	a, b := n.serve(vlan), n.serve(vlan)
	outside := n.serve(lan)
	n.reached("a pod in the VLAN, from another", b.name, func() string { return a.get(b.ip + ":8080") })
	n.reached("a pod on the LAN, from the node", outside.name, func() string { return n.get(outside.ip + ":8080") })
	n.refused("a pod in the VLAN, from the node", func() string { return n.get(a.ip + ":8080") })
	n.refused("a pod on the LAN, from one in the VLAN", func() string { return a.get(outside.ip + ":8080") })
	run(t, "sh", "-ec", "bridge vlan add dev vmbr0 vid 20 self; ip link add link vmbr0 name vmbr0.20 type vlan id 20; ip addr add 10.20.0.1/24 dev vmbr0.20; ip link set vmbr0.20 up")
	n.reached("a pod in the VLAN, from a node that is in it", a.name, func() string { return n.get(a.ip + ":8080") })
}
