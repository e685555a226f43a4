package node

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/conf"
	"github.com/pvelxc/pvelxc/shim/container"
)

// Container is one of this node's, as its state file has it.
type Container struct {
	container.Info
	// VMID is zero for a container that is not registered.
	VMID pve.VMID
	// Unregistered is why it could not be; empty for one that was not meant to be.
	Unregistered string
	// Guest is what Proxmox VE was told; nil without a VMID.
	Guest *pve.Guest
	// Pool is the resource pool that it is to be in; empty for none.
	Pool string
}

// Containers lists the containers of this node, without asking containerd or a shim.
func Containers() ([]Container, error) {
	infos, err := container.List("")
	if err != nil {
		return nil, err
	}
	all := make([]Container, len(infos))
	for i, info := range infos {
		all[i].Info = info
		if len(info.Registration) == 0 {
			continue
		}
		var rec record
		if err := json.Unmarshal(info.Registration, &rec); err != nil {
			return nil, fmt.Errorf("registration of %s/%s: %w", info.Namespace, info.ID, err)
		}
		all[i].VMID, all[i].Unregistered, all[i].Guest, all[i].Pool = rec.VMID, rec.Unregistered, rec.Guest, rec.Pool
	}
	return all, nil
}

// Reader looks at registrations and changes nothing.
func Reader(conf config.Config) (*pve.Registrar, error) {
	client, err := (&registrar{conf: conf}).settings()
	if err != nil {
		return nil, err
	}
	return pve.Reader(client)
}

// Explanation is what would become of a bundle on this node.
type Explanation struct {
	container.Explanation
	// Conf is what Proxmox VE would be told; nil for a bundle that is refused, and for one
	// that is not registered, for which Unregistered gives the reason.
	Conf         *conf.Conf
	Unregistered string
}

// Explain converts a bundle with the node's settings, and makes nothing.
func Explain(ctx context.Context, conf config.Config, cfg container.Config) (Explanation, error) {
	cfg.Settings = settingsOf(conf, container.InstalledSettings())
	plain, err := container.Explain(ctx, cfg)
	e := Explanation{Explanation: plain}
	switch {
	case err != nil || plain.Plan == nil:
		return e, err
	case conf.Registration == config.RegisterNone:
		e.Unregistered = `registration = "none"`
		return e, nil
	case conf.Registration == config.RegisterContainers && isSandbox(plain.Spec):
		e.Unregistered = `a pod's pause container, and registration = "containers"`
		return e, nil
	}
	reader, err := Reader(conf)
	if err != nil {
		e.Unregistered = err.Error()
		return e, nil //nolint:nilerr // it is a part of the explanation
	}
	e.Conf, err = reader.Render(guest(container.Guest{Namespace: cfg.Namespace, ID: cfg.ID, Bundle: cfg.Bundle, Spec: plain.Spec, Plan: plain.Plan}))
	return e, err
}
