package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/internal/inventory"
	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/api"
)

// asker knows for a reconciliation what files do not tell: containerd and Proxmox VE's API are
// asked once each, and only when something depends on it. Without an answer the rest is done.
type asker struct {
	conf config.Config
	warn func(error)

	askImages func(ctx context.Context, namespace string) (map[string]string, error)
	images    map[string]map[string]string // by namespace, then by id
	mute      bool                         // containerd does not answer

	client *api.Client
	guests map[pve.VMID]pve.Remote
	deaf   bool // there is no API, or it does not answer
}

// reconcile is node.Reconcile with what containerd and Proxmox VE's API know; warn is told of
// the answers that it went without.
func reconcile(ctx context.Context, conf config.Config, dryRun bool, warn func(error)) (pve.Report, error) {
	a := newAsker(conf, warn)
	report, err := node.Reconcile(ctx, conf, node.ReconcileOptions{DryRun: dryRun, Image: a.image, Elsewhere: a.elsewhere})
	joined, joinErr := a.join(ctx, dryRun)
	if joinErr != nil {
		warn(joinErr)
	}
	report.Changes = append(report.Changes, joined...)
	return report, err
}

func newAsker(conf config.Config, warn func(error)) *asker {
	a := &asker{conf: conf, warn: warn, askImages: inventory.Images(inventory.Address()), images: map[string]map[string]string{}}
	if conf.PVE.API.TokenFile == "" {
		a.deaf = true
		return a
	}
	var err error
	if a.client, err = apiClient(conf.PVE.API); err != nil {
		a.deaf = true
		warn(err)
	}
	return a
}

// image is for node.ReconcileOptions.
func (a *asker) image(ctx context.Context, namespace, id string) string {
	known, ok := a.images[namespace]
	if !ok && !a.mute {
		var err error
		if known, err = a.askImages(ctx, namespace); err != nil {
			a.mute = true // notes without an image can wait, and are no reason to warn
		}
		a.images[namespace] = known
	}
	return known[id]
}

// elsewhere is for node.ReconcileOptions.
func (a *asker) elsewhere(ctx context.Context, vmid pve.VMID) (pve.Remote, bool) {
	if a.guests == nil && !a.deaf {
		ctx, cancel := context.WithTimeout(ctx, apiPatience)
		defer cancel()
		list, err := a.client.Guests(ctx)
		if err != nil {
			a.deaf = true
			a.warn(fmt.Errorf("guests on other nodes are taken for stopped: %w", err))
		}
		a.guests = make(map[pve.VMID]pve.Remote, len(list))
		for _, g := range list {
			a.guests[g.VMID] = remote(g)
		}
	}
	g, ok := a.guests[vmid]
	return g, ok
}

func remote(g api.Guest) pve.Remote {
	return pve.Remote{Node: g.Node, Type: g.Type, Status: g.Status, Name: g.Name}
}

// join makes running containers members of their pools whose joining failed when they
// started: the API was away.
func (a *asker) join(ctx context.Context, dryRun bool) ([]pve.Change, error) {
	if a.deaf {
		return nil, nil
	}
	list, err := node.Containers()
	if err != nil {
		return nil, err
	}
	reader, err := node.Reader(a.conf)
	if err != nil {
		return nil, err
	}
	pools := map[string][]node.Container{}
	for _, c := range list {
		if c.Pool != "" && c.VMID != 0 && !c.Deleting && c.Started() {
			pools[c.Pool] = append(pools[c.Pool], c)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, apiPatience)
	defer cancel()
	var changes []pve.Change
	var errs []error
	for pool, list := range pools {
		members, err := a.client.Pool(ctx, pool)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, c := range list {
			if slices.Contains(members, c.VMID) {
				continue
			}
			change := pve.Change{Action: pve.Joined, VMID: c.VMID, Owner: pve.Owner{Node: reader.Node, Namespace: c.Namespace, ID: c.ID}}
			if !dryRun {
				change.Err = a.client.AddToPool(ctx, pool, c.VMID)
			}
			changes = append(changes, change)
		}
	}
	return changes, errors.Join(errs...)
}
