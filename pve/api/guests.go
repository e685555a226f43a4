package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/pvelxc/pvelxc/pve"
)

// Guest is a virtual machine or container anywhere in the cluster.
type Guest struct {
	VMID pve.VMID
	Node string
	// Type is "lxc" or "qemu".
	Type string
	// Status is "running", "stopped", or "unknown" where its node does not answer.
	Status string
	Name   string
	// Pool is empty for none.
	Pool string
}

// Guests lists what the token may see (VM.Audit) of the cluster's guests.
func (c *Client) Guests(ctx context.Context) ([]Guest, error) {
	var answer []struct {
		VMID   number `json:"vmid"`
		Node   string `json:"node"`
		Type   string `json:"type"`
		Status string `json:"status"`
		Name   string `json:"name"`
		Pool   string `json:"pool"`
	}
	if err := c.call(ctx, http.MethodGet, "/cluster/resources", url.Values{"type": {"vm"}}, &answer); err != nil {
		return nil, fmt.Errorf("list the cluster's guests: %w", err)
	}
	guests := make([]Guest, 0, len(answer))
	for _, g := range answer {
		if g.VMID == 0 {
			continue // not a guest
		}
		if g.Status == "" {
			g.Status = "unknown"
		}
		guests = append(guests, Guest{pve.VMID(g.VMID), g.Node, g.Type, g.Status, g.Name, g.Pool})
	}
	return guests, nil
}

// number is an integer that Perl may have made a string, or a float, of.
type number int64

// UnmarshalJSON takes 100, "100" and 100.0.
func (n *number) UnmarshalJSON(data []byte) error {
	text := strings.Trim(string(data), `"`)
	if text == "" || text == "null" {
		return nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != float64(int64(f)) || f < 0 || f > 1<<52 {
		return fmt.Errorf("%q is not a whole number", text)
	}
	*n = number(f)
	return nil
}
