package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/shim/container"
)

// reconcileEvery is how often the shims of a node reconcile at most: a burst of
// pods needs one reconciliation, not one each.
const reconcileEvery = time.Minute

// Started reconciles the node's registrations when a shim begins to serve, in the
// background, unless that was done a moment ago.
func Started(ctx context.Context) {
	conf, err := config.Load()
	if err != nil || conf.Registration == config.RegisterNone {
		return // a bad configuration is told to whoever creates a container
	}
	if !turnToReconcile(filepath.Join(container.DefaultRoot, "reconciled")) {
		return
	}
	report, err := Reconcile(ctx, conf, false)
	if err != nil {
		log.G(ctx).WithError(err).Warn("reconcile registrations")
	}
	for _, c := range report.Changes {
		log.G(ctx).WithField("vmid", c.VMID).WithField("id", c.Owner.ID).Info("registration " + string(c.Action))
	}
}

// turnToReconcile says whether the stamp at path is old, and renews it. Of several
// shims that ask at once one is told yes.
func turnToReconcile(path string) bool {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return false
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Size() > 0 && time.Since(info.ModTime()) < reconcileEvery {
		return false
	}
	_, err = f.WriteAt([]byte("1"), 0)
	return err == nil
}

// Reconcile makes the confs of this node agree with its containers, which are
// those with a state file: after a reboot of the host there are none.
func Reconcile(ctx context.Context, conf config.Config, dryRun bool) (pve.Report, error) {
	client, err := (&registrar{conf: conf}).open()
	if err != nil {
		return pve.Report{}, err
	}
	return client.Reconcile(ctx, pve.View{Tasks: tasks, Cluster: true, DryRun: dryRun})
}

// tasks lists this host's containers for a reconciliation.
func tasks(context.Context) ([]pve.Task, error) {
	list, err := container.List("")
	if err != nil {
		return nil, err
	}
	all := make([]pve.Task, 0, len(list))
	for _, c := range list {
		if len(c.Registration) == 0 {
			continue // it stays out by configuration
		}
		t := pve.Task{Namespace: c.Namespace, ID: c.ID, Running: c.Alive}
		var rec record
		if err := json.Unmarshal(c.Registration, &rec); err != nil {
			return nil, fmt.Errorf("registration of %s/%s: %w", c.Namespace, c.ID, err)
		}
		t.VMID = rec.VMID
		t.Guest = func(context.Context) (pve.Guest, error) {
			if rec.Guest == nil {
				return pve.Guest{}, errors.New("the record does not describe the container")
			}
			return *rec.Guest, nil
		}
		all = append(all, t)
	}
	return all, nil
}
