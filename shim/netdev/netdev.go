// Package netdev moves network devices of the host into a container's network
// namespace (config-linux.md#network-devices).
package netdev

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Move moves devices, by their names on the host, into the network namespace at
// nsPath, for example /proc/PID/ns/net of a parked init. Each gets its new name in
// the same step, keeps its permanent addresses of global scope, and is up
// afterwards. The first that fails ends it; what has been moved stays with the
// namespace, and goes with it.
//
// A device that does not exist unwraps to errdefs.ErrNotFound, a name that is taken
// in the container to errdefs.ErrAlreadyExists.
func Move(ctx context.Context, nsPath string, devices map[string]specs.LinuxNetDevice) error {
	if len(devices) == 0 {
		return nil
	}
	target, err := netns.GetFromPath(nsPath)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", nsPath, err)
	}
	defer target.Close()
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer host.Close()
	inside, err := netlink.NewHandleAt(target, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in %s: %w", nsPath, err)
	}
	defer inside.Close()
	m := mover{host: host, inside: inside, target: target}
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("move network devices: %w", err)
		}
		to := devices[name].Name
		if to == "" {
			to = name
		}
		if err := m.move(name, to); err != nil {
			return fmt.Errorf("linux.netDevices: move %s into the container as %s: %w", name, to, err)
		}
	}
	return nil
}

type mover struct {
	host, inside *netlink.Handle
	target       netns.NsHandle
}

func (m mover) move(name, to string) error {
	link, err := m.host.LinkByName(name)
	if err = ignoreInterrupted(err); err != nil {
		var missing netlink.LinkNotFoundError
		if errors.As(err, &missing) {
			return fmt.Errorf("the host has no such device: %w", errdefs.ErrNotFound)
		}
		return err
	}
	before, err := m.indexes()
	if err != nil {
		return err
	}
	template := strings.Contains(to, "%d")
	if !template && slices.Contains(slices.Collect(maps.Values(before)), to) {
		return fmt.Errorf("the container has a device of that name (hint: end the name with %%d to have one generated): %w", errdefs.ErrAlreadyExists)
	}
	// Down first: the kernel renames only what is down, and routes go now rather than
	// half way. IPv6 addresses go with it, so they are read before.
	addresses, err := m.host.AddrList(link, netlink.FAMILY_ALL)
	if err = ignoreInterrupted(err); err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	if err := m.host.LinkSetDown(link); err != nil {
		return fmt.Errorf("set down: %w", err)
	}
	if err := m.renumber(link, to); err != nil {
		if errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("%w: %w", err, errdefs.ErrAlreadyExists)
		}
		// Nothing was moved: as it was.
		return errors.Join(err, m.restore(link, addresses))
	}
	moved, err := m.find(to, before, template, link)
	if err != nil {
		return err
	}
	for _, address := range addresses {
		if !kept(address) {
			continue
		}
		if err := m.inside.AddrAdd(moved, &netlink.Addr{IPNet: address.IPNet, Peer: address.Peer, Broadcast: address.Broadcast}); err != nil {
			return fmt.Errorf("add address %s: %w", address.IPNet, err)
		}
	}
	if err := m.inside.LinkSetUp(moved); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// kept says whether the specification wants the address moved: permanent, and of
// global scope.
func kept(a netlink.Addr) bool {
	return a.Flags&unix.IFA_F_PERMANENT != 0 && a.Scope == unix.RT_SCOPE_UNIVERSE
}

// restore brings a device up again that could not be moved, with the addresses that
// it lost while it was down.
func (m mover) restore(link netlink.Link, addresses []netlink.Addr) error {
	if link.Attrs().Flags&unix.IFF_UP == 0 {
		return nil
	}
	if err := m.host.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up on the host again: %w", err)
	}
	for _, address := range addresses {
		if kept(address) {
			// IPv4's are there still.
			if err := m.host.AddrReplace(link, &address); err != nil {
				return fmt.Errorf("add address %s on the host again: %w", address.IPNet, err)
			}
		}
	}
	return nil
}

// renumber moves and renames in one request (RTM_NEWLINK of rtnetlink(7)): between
// two the new name could be taken on either side.
func (m mover) renumber(link netlink.Link, to string) error {
	request := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link.Attrs().Index)
	request.AddData(msg)
	request.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(to)))
	request.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(m.target))))
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// indexes gives the names of the container's devices by their index.
func (m mover) indexes() (map[int]string, error) {
	links, err := m.inside.LinkList()
	if err = ignoreInterrupted(err); err != nil {
		return nil, fmt.Errorf("list the container's devices: %w", err)
	}
	names := map[int]string{}
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	return names, nil
}

// find gives the device as the container has it. Its index may have changed; for a
// name that the kernel generated it is the device that was not there before.
func (m mover) find(to string, before map[int]string, template bool, was netlink.Link) (netlink.Link, error) {
	if !template {
		link, err := m.inside.LinkByName(to)
		if err = ignoreInterrupted(err); err != nil {
			return nil, fmt.Errorf("find the moved device: %w", err)
		}
		return link, nil
	}
	links, err := m.inside.LinkList()
	if err = ignoreInterrupted(err); err != nil {
		return nil, fmt.Errorf("list the container's devices: %w", err)
	}
	prefix, _, _ := strings.Cut(to, "%d")
	for _, link := range links {
		_, old := before[link.Attrs().Index]
		if !old && strings.HasPrefix(link.Attrs().Name, prefix) && slices.Equal(link.Attrs().HardwareAddr, was.Attrs().HardwareAddr) {
			return link, nil
		}
	}
	return nil, fmt.Errorf("the moved device is not in the container: %w", errdefs.ErrNotFound)
}

// ignoreInterrupted drops the report that a list changed while it was read: with
// devices coming and going on a busy node that is usual, and what was read is whole
// as far as the device asked for is concerned.
func ignoreInterrupted(err error) error {
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil
	}
	return err
}
