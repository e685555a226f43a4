package pve

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// sweepFile removes a file under its VMID's lock if it is old and still what it
// was found to be.
func (p *reconciliation) sweepFile(ctx context.Context, vmid VMID, path string, still func([]byte) bool) {
	data, err := readFile(unix.AT_FDCWD, path, make([]byte, 4096))
	if err != nil || !p.old(path) || !still(data) {
		return // gone, or in use, or for the next time
	}
	p.do(Swept, vmid, Owner{}, func() error {
		lock, err := p.lockVMID(ctx, vmid, p.LockTimeout)
		if err != nil {
			return err
		}
		defer lock.release()
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
	if p.view.DryRun {
		return
	}
	lock, err := p.lockVMID(ctx, vmid, 0)
	if err != nil {
		return // the reservation is in progress
	}
	defer lock.release()
	data, err := p.store.read(p.Node, vmid)
	if errors.Is(p.store.explain(err), unix.ENOENT) || err == nil && len(data) > 0 {
		if err := remove(p.intent(vmid)); err != nil {
			p.report.Changes = append(p.report.Changes, Change{Swept, vmid, Owner{}, err})
		}
	}
}
