package api

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
)

// Privileges lists what the token may do on a path of PVE's access control, such as
// "/vms/100", sorted: what it inherits from the paths above is among it.
func (c *Client) Privileges(ctx context.Context, path string) ([]string, error) {
	// A privilege that is held is there, with whether it holds for the paths below.
	var answer map[string]map[string]number
	if err := c.call(ctx, http.MethodGet, "/access/permissions", url.Values{"path": {path}}, &answer); err != nil {
		return nil, fmt.Errorf("list the token's privileges on %s: %w", path, err)
	}
	return slices.Sorted(maps.Keys(answer[path])), nil
}
