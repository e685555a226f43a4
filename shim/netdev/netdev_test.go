package netdev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inNamespaces runs f in a thread of its own, in a fresh network namespace that
// plays the host; path is another fresh one, the container's.
func inNamespaces(t *testing.T, f func(t *testing.T, path string, inside *netlink.Handle)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread ends with the goroutine, the namespace with it.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		container, err := netns.Get()
		if err != nil {
			t.Error(err)
			return
		}
		defer container.Close()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		inside, err := netlink.NewHandleAt(container, unix.NETLINK_ROUTE)
		if err != nil {
			t.Error(err)
			return
		}
		defer inside.Close()
		f(t, fmt.Sprintf("/proc/self/fd/%d", container), inside)
	}()
	<-done
}

// add makes a device on the host side that is up and has addresses.
func add(t *testing.T, name string, addresses ...string) bool {
	t.Helper()
	peer := "p" + name
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1400}, PeerName: peer}
	if err := netlink.LinkAdd(link); err != nil {
		t.Logf("make a veth pair: %v", err)
		return false
	}
	for _, up := range []string{name, peer} {
		l, err := netlink.LinkByName(up)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			t.Errorf("set %s up: %v", up, err)
		}
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Error(err)
		return false
	}
	for _, address := range addresses {
		parsed, err := netlink.ParseAddr(address)
		if err != nil {
			t.Error(err)
			return false
		}
		if parsed.IP.To4() == nil {
			parsed.Flags = unix.IFA_F_NODAD
		}
		if strings.HasPrefix(address, "169.254.") {
			parsed.Scope = unix.RT_SCOPE_LINK
		}
		if strings.HasPrefix(address, "192.0.2.") {
			parsed.ValidLft, parsed.PreferedLft = 1000, 1000 // as DHCP would
		}
		if err := netlink.AddrAdd(l, parsed); err != nil {
			t.Errorf("add %s: %v", address, err)
		}
	}
	return true
}

// state is what the container sees of a device: its addresses but for link-local IPv6.
func state(t *testing.T, h *netlink.Handle, name string) (link netlink.Link, addresses []string) {
	t.Helper()
	link, err := h.LinkByName(name)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return nil, nil
	}
	list, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Error(err)
	}
	for _, a := range list {
		if !a.IP.IsLinkLocalUnicast() || a.IP.To4() != nil {
			addresses = append(addresses, a.IPNet.String())
		}
	}
	slices.Sort(addresses)
	return link, addresses
}

func TestMove(t *testing.T) {
	inNamespaces(t, func(t *testing.T, path string, inside *netlink.Handle) {
		if !add(t, "data0", "10.1.2.3/24", "10.1.2.4/24", "169.254.7.7/16", "192.0.2.9/24", "2001:db8::7/64") ||
			!add(t, "data1", "10.9.0.1/30") {
			t.Error("needs veth devices")
			return
		}
		was, err := netlink.LinkByName("data0")
		if err != nil {
			t.Error(err)
			return
		}
		err = Move(context.Background(), path, map[string]specs.LinuxNetDevice{"data0": {Name: "eth7"}, "data1": {}})
		if err != nil {
			t.Error(err)
			return
		}
		link, addresses := state(t, inside, "eth7")
		if link == nil {
			return
		}
		// Only permanent ones of global scope.
		if want := []string{"10.1.2.3/24", "10.1.2.4/24", "2001:db8::7/64"}; !slices.Equal(addresses, want) {
			t.Errorf("addresses %v, want %v", addresses, want)
		}
		if link.Attrs().Flags&net.FlagUp == 0 || link.Attrs().MTU != 1400 || !slices.Equal(link.Attrs().HardwareAddr, was.Attrs().HardwareAddr) {
			t.Errorf("the device changed: %+v", link.Attrs())
		}
		if _, addresses := state(t, inside, "data1"); !slices.Equal(addresses, []string{"10.9.0.1/30"}) {
			t.Errorf("data1 has %v", addresses)
		}
		var missing netlink.LinkNotFoundError
		if _, err := netlink.LinkByName("data0"); !errors.As(err, &missing) {
			t.Errorf("the host still has data0: %v", err)
		}
	})
}

func TestMoveNames(t *testing.T) {
	inNamespaces(t, func(t *testing.T, path string, inside *netlink.Handle) {
		if !add(t, "a0", "10.1.0.1/24") || !add(t, "b0", "10.2.0.1/24", "2001:db8::8/64") {
			t.Error("needs veth devices")
			return
		}
		move := func(from, to string) error {
			return Move(context.Background(), path, map[string]specs.LinuxNetDevice{from: {Name: to}})
		}
		if err := move("a0", "net0"); err != nil {
			t.Error(err)
		}
		err := move("b0", "net0")
		if !errors.Is(err, errdefs.ErrAlreadyExists) || !strings.Contains(err.Error(), "linux.netDevices: move b0") {
			t.Errorf("a name that is taken: %v", err)
		}
		// The host keeps it as it was.
		host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			t.Error(err)
			return
		}
		defer host.Close()
		if link, addresses := state(t, host, "b0"); link == nil || link.Attrs().Flags&net.FlagUp == 0 || len(addresses) != 2 {
			t.Errorf("the host's device after an error: %v %v", link, addresses)
		}
		if err := move("b0", "net%d"); err != nil {
			t.Error(err)
		}
		if link, addresses := state(t, inside, "net1"); link == nil || link.Attrs().Flags&net.FlagUp == 0 || len(addresses) != 2 {
			t.Errorf("a generated name: %v %v", link, addresses)
		}
		if err := move("none", ""); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("a device that does not exist: %v", err)
		}
	})
}

// TestMoveRestores: the kernel refuses to move a loopback device.
func TestMoveRestores(t *testing.T) {
	inNamespaces(t, func(t *testing.T, path string, _ *netlink.Handle) {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Error(err)
			return
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			t.Error(err)
		}
		err = Move(context.Background(), path, map[string]specs.LinuxNetDevice{"lo": {Name: "lo9"}})
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EBUSY) {
			t.Errorf("moving lo: %v", err)
		}
		if lo, err := netlink.LinkByName("lo"); err != nil || lo.Attrs().Flags&net.FlagUp == 0 {
			t.Errorf("lo is down after an error: %v", err)
		}
	})
}
