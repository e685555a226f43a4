package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/pve"
)

var poolPattern = regexp.MustCompile(`^[A-Za-z0-9.\-_]+(?:/[A-Za-z0-9.\-_]+){0,2}$`)

// Pool returns the guests in a pool, by VMID. It fails with ErrNotFound where there is no
// such pool. It needs Pool.Audit.
func (c *Client) Pool(ctx context.Context, pool string) ([]pve.VMID, error) {
	if !poolPattern.MatchString(pool) {
		return nil, fmt.Errorf("pool name %q is not PVE's: %w", pool, errdefs.ErrInvalidArgument)
	}
	var answer []struct {
		Pool    string `json:"poolid"`
		Members []struct {
			VMID number `json:"vmid"` // none for a storage
		} `json:"members"`
	}
	if err := c.call(ctx, http.MethodGet, "/pools", url.Values{"poolid": {pool}}, &answer); err != nil {
		return nil, fmt.Errorf("read pool %s: %w", pool, err)
	}
	for _, p := range answer {
		if p.Pool != pool {
			continue
		}
		var vmids []pve.VMID
		for _, m := range p.Members {
			if m.VMID > 0 {
				vmids = append(vmids, pve.VMID(m.VMID))
			}
		}
		slices.Sort(vmids)
		return vmids, nil
	}
	return nil, fmt.Errorf("read pool %s: %w", pool, errdefs.ErrNotFound)
}

// AddToPool makes the guests members of a pool, those that are not. A guest of
// another pool stays there: ErrAlreadyExists. It needs Pool.Allocate, and
// VM.Allocate or Permissions.Modify on the guests.
func (c *Client) AddToPool(ctx context.Context, pool string, vmids ...pve.VMID) error {
	return c.changePool(ctx, pool, vmids, false)
}

// RemoveFromPool ends the membership of the guests, of those that are members. It
// should come before their conf goes: PVE keeps the membership of a VMID that is
// gone.
func (c *Client) RemoveFromPool(ctx context.Context, pool string, vmids ...pve.VMID) error {
	return c.changePool(ctx, pool, vmids, true)
}

// changePool asks first what is to be done: PVE refuses a list of which one guest
// is as wanted. For the same reason a change that was made, and whose answer was
// lost, is found made when it is tried again.
func (c *Client) changePool(ctx context.Context, pool string, vmids []pve.VMID, remove bool) error {
	var err error
	for range 2 {
		var members []pve.VMID
		if members, err = c.Pool(ctx, pool); err != nil {
			return err
		}
		var list []string
		for _, v := range vmids {
			if slices.Contains(members, v) == remove {
				list = append(list, v.String())
			}
		}
		if len(list) == 0 {
			return nil
		}
		parameters := url.Values{"poolid": {pool}, "vms": {strings.Join(list, ",")}}
		if remove {
			parameters.Set("delete", "1")
		}
		if err = c.call(ctx, http.MethodPut, "/pools", parameters, nil); err == nil {
			return nil
		}
		if !errdefs.IsAlreadyExists(err) && !notMember(err) {
			break
		}
	}
	return fmt.Errorf("change pool %s: %w", pool, err)
}

func notMember(err error) bool { return strings.Contains(err.Error(), "is not a pool member") }
