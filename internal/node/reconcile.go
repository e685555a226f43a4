package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
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
	report, err := Reconcile(ctx, conf, ReconcileOptions{Elsewhere: elsewhere(conf.PVE.API)})
	if err != nil {
		log.G(ctx).WithError(err).Warn("reconcile registrations")
	}
	for _, c := range report.Changes {
		entry := log.G(ctx).WithField("vmid", c.VMID).WithField("id", c.Owner.ID)
		if c.Err != nil {
			entry = entry.WithError(c.Err)
		}
		entry.Info("registration " + string(c.Action))
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

// ReconcileOptions are what a reconciliation may ask beside files.
type ReconcileOptions struct {
	// DryRun reports what would be done.
	DryRun bool
	// Image tells the image of a container that no annotation names; "" for not known. Nil
	// for nobody.
	Image func(ctx context.Context, namespace, id string) string
	// Elsewhere is [pve.View]'s.
	Elsewhere func(context.Context, pve.VMID) (pve.Remote, bool)
}

// Reconcile makes the confs of this node agree with its containers, which are
// those with a state file: after a reboot of the host there are none. Confs are where
// the configuration says, and where a container's record does.
//
// The report of one that failed counts the containers nevertheless.
func Reconcile(ctx context.Context, conf config.Config, opts ReconcileOptions) (pve.Report, error) {
	var total pve.Report
	r := &registrar{conf: conf}
	client, err := r.opener(opts.DryRun)
	var here site
	if err == nil {
		here = site{client.Root, client.Node}
		total, err = reconcileAt(ctx, client, here, here, opts)
	}
	all, listErr := tasks(here, opts)
	errs := []error{err, listErr}
	total.Tasks, total.Unregistered = 0, 0
	for p, list := range all {
		total.Tasks += len(list)
		for _, t := range list {
			if t.VMID == 0 {
				total.Unregistered++
			}
		}
		if p == here {
			continue
		}
		if client, err = r.at(p).opener(opts.DryRun); err != nil {
			errs = append(errs, err)
			continue
		}
		elsewhere := opts
		elsewhere.Elsewhere = nil // the API is this cluster's
		report, err := reconcileAt(ctx, client, p, here, elsewhere)
		errs = append(errs, err)
		total.Changes = append(total.Changes, report.Changes...)
		total.Confs += report.Confs
	}
	return total, errors.Join(errs...)
}

func reconcileAt(ctx context.Context, client *pve.Registrar, p, here site, opts ReconcileOptions) (pve.Report, error) {
	return client.Reconcile(ctx, pve.View{Cluster: true, DryRun: opts.DryRun, Elsewhere: opts.Elsewhere, Tasks: func(context.Context) ([]pve.Task, error) {
		all, err := tasks(here, opts)
		return all[p], err
	}})
}

// tasks lists this host's containers for a reconciliation, by where they are registered;
// those that are not, and those of which no record says it, count here.
func tasks(here site, opts ReconcileOptions) (map[site][]pve.Task, error) {
	list, err := container.List("")
	if err != nil {
		return nil, err
	}
	all := map[site][]pve.Task{}
	for _, c := range list {
		if len(c.Registration) == 0 || c.Deleting {
			continue // it stays out by configuration, or goes
		}
		var rec record
		if err := json.Unmarshal(c.Registration, &rec); err != nil {
			return nil, fmt.Errorf("registration of %s/%s: %w", c.Namespace, c.ID, err)
		}
		p := rec.Site
		if p == (site{}) {
			p = here
		}
		t := pve.Task{
			Namespace: c.Namespace, ID: c.ID, VMID: rec.VMID, Running: c.Started(),
			Look: func(context.Context) (pve.Guest, bool, error) { return look(c.Namespace, c.ID, rec.VMID) },
		}
		if opts.Image != nil && rec.Guest != nil && rec.Guest.Pod == "" {
			t.Image = func(ctx context.Context) string { return opts.Image(ctx, c.Namespace, c.ID) }
		}
		all[p] = append(all[p], t)
	}
	return all, nil
}

// look is what a container is now. It fails with ErrNotFound where it is gone, or goes.
func look(namespace, id string, vmid pve.VMID) (pve.Guest, bool, error) {
	c, err := container.Inspect("", namespace, id)
	if err != nil {
		return pve.Guest{}, false, err
	}
	var rec record
	if err := json.Unmarshal(c.Registration, &rec); err != nil {
		return pve.Guest{}, false, fmt.Errorf("registration of %s/%s: %w", namespace, id, err)
	}
	if c.Deleting || rec.VMID != vmid {
		return pve.Guest{}, false, fmt.Errorf("container %s/%s of VMID %d: %w", namespace, id, vmid, errdefs.ErrNotFound)
	}
	if rec.Guest == nil {
		return pve.Guest{}, false, errors.New("the record does not describe the container")
	}
	if rec.Guest.RootfsSize == 0 && c.Started() {
		rec.Guest.RootfsSize = rootfsSize(rec.Guest.Rootfs)
	}
	return *rec.Guest, c.Started(), nil
}
