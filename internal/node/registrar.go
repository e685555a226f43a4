package node

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/shim/container"
)

// registrar is a container.Registrar on package pve.
type registrar struct{ conf config.Config }

// open makes the client. It reads a few files and makes our own directories; an
// existing one is not kept, because containers are rare and configurations differ.
func (r *registrar) open() (*pve.Registrar, error) {
	client, err := r.settings()
	if err != nil {
		return nil, err
	}
	return pve.New(client)
}

// opener is open, or for who only looks a client that makes nothing.
func (r *registrar) opener(look bool) (*pve.Registrar, error) {
	if look {
		return Reader(r.conf)
	}
	return r.open()
}

// settings are the client's, of this configuration.
func (r *registrar) settings() (pve.Registrar, error) {
	client := pve.Registrar{
		Root:       r.conf.PVE.Root,
		Node:       r.conf.PVE.Node,
		Tags:       r.conf.PVE.Tags,
		OnNoQuorum: pve.Policy(r.conf.PVE.OnNoQuorum),
	}
	if text := r.conf.PVE.VMIDRange; text != "" {
		var err error
		if client.Range, err = pve.ParseRange(text); err != nil {
			return client, fmt.Errorf("pve.vmid_range: %w", err)
		}
	}
	if text := r.conf.PVE.Grace; text != "" {
		var err error
		if client.Grace, err = time.ParseDuration(text); err != nil {
			return client, fmt.Errorf("pve.grace: %w", err)
		}
	}
	return client, nil
}

// Reserve registers a container, unless it is a pause container and those stay out.
func (r *registrar) Reserve(ctx context.Context, g container.Guest) (container.Registration, error) {
	if r.conf.Registration == config.RegisterContainers && isSandbox(g.Spec) {
		return &registration{}, nil
	}
	client, err := r.open()
	if err != nil {
		if r.conf.PVE.OnNoQuorum == string(pve.Degrade) && errdefs.IsUnavailable(err) {
			log.G(ctx).WithField("id", g.ID).WithError(err).Warn("container starts unregistered")
			return unregistered(g, err), nil
		}
		return nil, err
	}
	described := guest(g)
	reg, err := client.Reserve(ctx, described)
	if err != nil {
		return nil, err
	}
	if reg.Degraded != nil {
		log.G(ctx).WithField("id", g.ID).WithError(reg.Degraded).Warn("container starts unregistered")
		return unregistered(g, reg.Degraded), nil //nolint:nilerr // by configuration no failure
	}
	return &registration{
		client: client, reg: reg, guest: &described,
		pool: newMembership(r.conf.PVE, reg.VMID), since: time.Now(), api: r.conf.PVE.API.TokenFile != "",
	}, nil
}

// at is a registrar for what was registered at a site, whatever the configuration
// says now: a runtime handler may have said otherwise then.
func (r *registrar) at(p site) *registrar {
	conf := r.conf
	if p.Root != "" {
		conf.PVE.Root, conf.PVE.Node = p.Root, p.Node
	}
	return &registrar{conf: conf}
}

// unregistered is the registration of a container that could have none.
func unregistered(g container.Guest, cause error) *registration {
	return &registration{reg: pve.Registration{Namespace: g.Namespace, ID: g.ID, Degraded: cause}}
}

// record is what a state file keeps of a registration.
type record struct {
	VMID      pve.VMID `json:"vmid"`
	Namespace string   `json:"namespace"`
	ID        string   `json:"id"`
	// Unregistered is why the container has no VMID.
	Unregistered string `json:"unregistered,omitempty"`
	// Site is where the conf is, Pool the pool that it joins.
	Site site   `json:"site,omitzero"`
	Pool string `json:"pool,omitempty"`
	// Guest is what was registered, should the conf be lost.
	Guest *pve.Guest `json:"guest,omitempty"`
}

// site is a node of a cluster, or a directory in its stead.
type site struct {
	Root string `json:"root,omitempty"`
	Node string `json:"node,omitempty"`
}

// Resume returns the registration of a record.
func (r *registrar) Resume(data json.RawMessage) (container.Registration, error) {
	var rec record
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, fmt.Errorf("read registration: %w", err)
	}
	if rec.VMID == 0 {
		return &registration{}, nil
	}
	client, err := r.at(rec.Site).open()
	if err != nil {
		return nil, err
	}
	conf := r.conf.PVE
	conf.Pool = rec.Pool
	return &registration{
		client: client,
		reg:    pve.Registration{VMID: rec.VMID, Namespace: rec.Namespace, ID: rec.ID},
		guest:  rec.Guest,
		pool:   newMembership(conf, rec.VMID),
	}, nil
}

// registration is a container.Registration; without a client it is nobody's.
type registration struct {
	client *pve.Registrar
	reg    pve.Registration
	guest  *pve.Guest
	pool   *membership // nil for no pool
	since  time.Time   // of the reservation
	api    bool        // there is one to ask
}

func (r *registration) Name() string {
	if r.reg.VMID == 0 {
		return ""
	}
	return r.reg.VMID.String()
}

func (r *registration) LXCPath() string { return r.client.LXCPath }

// Record is empty for a container that stays out by configuration.
func (r *registration) Record() (json.RawMessage, error) {
	rec := record{VMID: r.reg.VMID, Namespace: r.reg.Namespace, ID: r.reg.ID, Guest: r.guest}
	if r.client != nil {
		rec.Site = site{Root: r.client.Root, Node: r.client.Node}
	}
	if r.pool != nil {
		rec.Pool = r.pool.pool
	}
	if r.reg.Degraded != nil {
		rec.Unregistered = r.reg.Degraded.Error()
	}
	if rec.VMID == 0 && rec.Unregistered == "" {
		return nil, nil
	}
	return json.Marshal(rec)
}

func (r *registration) Running(ctx context.Context) error {
	r.pool.join(ctx)
	if r.guest != nil {
		r.guest.RootfsSize = rootfsSize(r.guest.Rootfs)
		r.reg.RootfsSize = r.guest.RootfsSize
	}
	return r.client.SetRunning(ctx, r.reg)
}

func (r *registration) Stopped(ctx context.Context) error {
	if r.api {
		go r.tellWhoStopped(context.WithoutCancel(ctx))
	}
	return r.client.SetStopped(ctx, r.reg)
}

func (r *registration) Update(ctx context.Context, before, after *specs.LinuxResources) error {
	if r.guest != nil {
		r.guest.Limits = limits(after)
	}
	return r.client.Update(ctx, r.reg, limits(before), limits(after))
}

func (r *registration) Remove(ctx context.Context) error {
	if r.client == nil {
		return nil
	}
	// PVE keeps the membership of a VMID that is gone.
	r.pool.leave(ctx)
	return r.client.Unregister(ctx, r.reg)
}
