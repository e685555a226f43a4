package pve

import (
	"context"
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// sweep removes what crashes left: next contents that never became a conf, empty
// confs that nobody means, and intents that came to nothing.
func (p *reconciliation) sweep(ctx context.Context, found listing) {
	for _, vmid := range found.temps {
		p.sweepFile(ctx, vmid, p.store.temp(vmid), func([]byte) bool { return true })
	}
	intents := p.readIntents()
	for _, vmid := range found.empty {
		// A local directory is nobody's but ours. After a power failure it may hold
		// empty files whose intents came to disk as removed.
		if p.Local || slices.Contains(intents, vmid) {
			p.sweepFile(ctx, vmid, p.store.path(p.Node, vmid), func(data []byte) bool { return len(data) == 0 })
		}
	}
	for _, vmid := range intents {
		p.settleIntent(ctx, vmid)
	}
}

// sweepFile removes a file under its VMID's lock if it is old and still what it
// was found to be.
func (p *reconciliation) sweepFile(ctx context.Context, vmid VMID, path string, still func([]byte) bool) {
	if !p.old(ctx, path) {
		return // gone, or in use, or for the next time
	}
	p.do(Swept, vmid, Owner{}, func() error {
		return p.locked(ctx, string(Swept), vmid, func(ctx context.Context) error {
			return p.store.retry(ctx, func() error {
				data, err := readFile(unix.AT_FDCWD, path, make([]byte, 4096))
				if errors.Is(err, unix.ENOENT) {
					return nil
				}
				if err != nil || !still(data) {
					return err
				}
				return remove(path)
			})
		})
	})
}

// readIntents lists the reservations that were begun on this node and neither
// succeeded nor failed.
func (p *reconciliation) readIntents() []VMID {
	entries, err := os.ReadDir(p.intents())
	if err != nil {
		return nil // nothing is known, so nothing is removed
	}
	var vmids []VMID
	for _, e := range entries {
		if vmid, err := ParseVMID(e.Name()); err == nil {
			vmids = append(vmids, vmid)
		}
	}
	return vmids
}

// settleIntent forgets an intent whose reservation is not in progress and left no
// empty conf.
func (p *reconciliation) settleIntent(ctx context.Context, vmid VMID) {
	if p.view.DryRun || p.checkOutage(ctx, string(Swept), vmid) != nil {
		return
	}
	lock, err := p.lockVMID(ctx, vmid, 0)
	if err != nil {
		return // the reservation is in progress
	}
	err = p.bound(ctx, string(Swept), vmid, func(context.Context) error {
		defer lock.release()
		data, err := p.store.read(p.Node, vmid)
		if err = p.store.explain(err); err == nil && len(data) == 0 || err != nil && !errors.Is(err, unix.ENOENT) {
			return nil
		}
		return remove(p.intent(vmid))
	}, nil)
	if err != nil {
		p.report.Changes = append(p.report.Changes, Change{Swept, vmid, Owner{}, err})
	}
}
