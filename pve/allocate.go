package pve

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func isBusy(err error) bool { return errors.Is(err, unix.EWOULDBLOCK) }

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

func (r *Registrar) intents() string { return filepath.Join(r.StateDir, "intents") }

func (r *Registrar) intent(vmid VMID) string { return filepath.Join(r.intents(), vmid.String()) }

// claim tries to reserve one VMID. ok is false, without an error, where somebody
// else has it or is at it. The caller holds no lock.
//
// A crash between the create and the write leaves an empty conf, which nothing in
// it says is ours. The intent, written before, says it (settleIntents).
func (r *Registrar) claim(ctx context.Context, vmid VMID, data []byte) (ok bool, err error) {
	lock, err := r.lockVMID(ctx, vmid, 0)
	if errors.Is(err, ErrBusy) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer lock.release()
	if err := os.WriteFile(r.intent(vmid), nil, 0o600); err != nil {
		return false, fmt.Errorf("note intent: %w", err)
	}
	made, err := r.store.create(vmid, data)
	if err == nil {
		return true, remove(r.intent(vmid))
	}
	if !made {
		err = r.store.explain(err)
	}
	if !made && !isGone(err) {
		if errors.Is(err, unix.EEXIST) {
			return false, remove(r.intent(vmid))
		}
		return false, errors.Join(err, remove(r.intent(vmid)))
	}
	// Made but not written, or nobody knows: the VMID is given up. Where even that
	// fails the intent stays for Reconcile.
	if undo := r.store.retry(ctx, func() error { return r.abandon(vmid, data) }); undo != nil {
		return false, errors.Join(err, undo)
	}
	if isGone(err) {
		return false, remove(r.intent(vmid))
	}
	return false, errors.Join(err, remove(r.intent(vmid)))
}

// abandon removes a conf that a failed create may have left: an empty one, or
// exactly ours. The caller holds the VMID's lock and its intent.
func (r *Registrar) abandon(vmid VMID, data []byte) error {
	found, err := r.store.read(r.Node, vmid)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(found) > 0 && string(found) != string(data) {
		return nil
	}
	return remove(r.store.path(r.Node, vmid))
}
