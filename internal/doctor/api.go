package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pvelxc/pvelxc/pve/api"
)

// pveAPI asks the API what its token may do: one that may not see a guest or a task gets answers
// without them, which look like those of a cluster where nothing is wrong.
func pveAPI(ctx context.Context, n *Node) Result {
	conf := n.Config.PVE.API
	if conf.TokenFile == "" {
		return skipped("no token is configured")
	}
	client, err := api.New(api.Client{URL: conf.URL, TokenFile: conf.TokenFile, CAFile: conf.CAFile, Fingerprint: conf.Fingerprint, Attempts: 2})
	if err != nil {
		return failure("correct [pve.api] in /etc/pvelxc/config.toml", "%v", err)
	}
	var missing []string
	for _, need := range n.privileges() {
		held, err := client.Privileges(ctx, need.path)
		if err != nil {
			return failure("systemctl status pveproxy; pveum user token list; [pve.api] in /etc/pvelxc/config.toml", "the API does not answer: %v", err)
		}
		for _, p := range need.privileges {
			if !slices.Contains(held, p) {
				missing = append(missing, fmt.Sprintf("%s on %s (%s)", p, need.path, need.purpose))
			}
		}
	}
	if len(missing) > 0 {
		return warning("give them to the token, and to its user: pveum acl modify", "the token lacks %s", strings.Join(missing, ", "))
	}
	return ok("the API answers, and the token may do what it is for")
}

// need is what a token must be able to do on a path, and for what.
type need struct {
	path, purpose string
	privileges    []string
}

func (n *Node) privileges() []need {
	var needs []need
	guest := []string{"VM.Audit"}
	if r, err := n.vmidRange(); err == nil {
		if n.Config.PVE.Pool != "" {
			guest = append(guest, "VM.Allocate")
		}
		needs = append(needs, need{"/vms/" + r.First.String(), "state and pool of containers", guest})
	}
	name := n.Config.PVE.Node
	if name == "" {
		if target, err := os.Readlink(n.At(filepath.Join(n.clusterDir(), "local"))); err == nil {
			name = filepath.Base(target)
		}
	}
	if name != "" {
		needs = append(needs, need{"/nodes/" + name, "who stopped a container", []string{"Sys.Audit"}})
	}
	if pool := n.Config.PVE.Pool; pool != "" {
		needs = append(needs, need{"/pool/" + pool, "the pool", []string{"Pool.Audit", "Pool.Allocate"}})
	}
	return needs
}
