package pve

import (
	"context"
	"fmt"
	"hash/fnv"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// allocate claims VMIDs in turn. The list of those that are taken is read only
// after a collision: usually there is none, and the container waits for less.
func (r *Registrar) allocate(ctx context.Context, data []byte) (*claim, error) {
	var taken map[VMID]string
	// A collision needs another node's create between our look and ours; twice the
	// range of them is not chance.
	for range 2 * r.Range.Size() {
		if ctx.Err() != nil {
			return nil, &Error{Op: opReserve, Kind: ErrUnreachable, Err: ctx.Err(), Hint: hintUnreachable}
		}
		vmid, err := r.turn(ctx, taken)
		if err != nil {
			return nil, err
		}
		if vmid == 0 {
			break
		}
		c, err := r.claim(ctx, vmid, data)
		if c != nil || err != nil {
			return c, err
		}
		err = r.reach(ctx, opReserve, 0, func(ctx context.Context) error {
			return r.store.retry(ctx, func() (err error) { taken, err = r.store.guests(); return err })
		})
		if err != nil {
			return nil, err
		}
		taken[vmid] = "" // it may be a lock, not a guest, that is in the way
	}
	used := 0
	for vmid := range taken {
		if r.Range.Contains(vmid) {
			used++
		}
	}
	return nil, &Error{Op: opReserve, Kind: ErrNoVMID, Err: fmt.Errorf("%d of %s are used", used, r.Range), Hint: "pvelxc gc, or widen vmid_range"}
}

// turn gives the next VMID in the round, which no process of this node is given
// again before the whole range was. taken are skipped; with all of them taken it
// returns zero.
//
// Going round matters more than being dense: permissions, firewall rules, backup
// jobs and statistics are keyed by VMID, and must not meet a new container under
// the number of one that was just removed.
func (r *Registrar) turn(ctx context.Context, taken map[VMID]string) (VMID, error) {
	path := filepath.Join(r.StateDir, "cursor")
	lock, err := lockPath(ctx, path, r.LockTimeout)
	if err != nil {
		return 0, err
	}
	defer lock.release()
	buf := make([]byte, 16)
	n, err := unix.Pread(lock.fd, buf, 0)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	vmid, err := ParseVMID(strings.TrimSpace(string(buf[:n])))
	if err != nil || !r.Range.Contains(vmid) {
		vmid = r.firstTurn()
	}
	for range r.Range.Size() {
		vmid = r.Range.next(vmid)
		if _, is := taken[vmid]; is {
			continue
		}
		// Fixed width: the shorter of two numbers must not leave digits of the
		// longer behind, and truncation would be a second step.
		if _, err := unix.Pwrite(lock.fd, fmt.Appendf(nil, "%-10d\n", vmid), 0); err != nil {
			return 0, fmt.Errorf("write %s: %w", path, err)
		}
		return vmid, nil
	}
	return 0, nil
}

// firstTurn spreads the nodes of a cluster over a range that they share: apart,
// they rarely try the same VMID.
func (r *Registrar) firstTurn() VMID {
	h := fnv.New32a()
	h.Write([]byte(r.Node))
	return r.Range.First + VMID(h.Sum32()%uint32(r.Range.Size()))
}
