package registration

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

// pooled is a node whose containers join the pool k8s, which has one other member.
func pooled(t *testing.T, trust func(*pvetest.API) string) (*node, *pvetest.API) {
	t.Helper()
	api := pvetest.StartAPI(t)
	n := cluster(t, `pool = "k8s"`, "[pve.api]", fmt.Sprintf("url = %q", api.URL), fmt.Sprintf("token_file = %q", api.TokenFile), trust(api))
	return n, api
}

func byAuthority(s *pvetest.API) string { return fmt.Sprintf("ca_file = %q", s.CAFile) }
func byFingerprint(s *pvetest.API) string {
	return fmt.Sprintf("fingerprint = \"%X\"", s.Fingerprint())
}

// members waits until the pool has these beside its other member.
func members(t *testing.T, api *pvetest.API, want ...string) {
	t.Helper()
	harness.Eventually(t, "members of the pool", func() error {
		var got []string
		for _, v := range api.Members("k8s") {
			if v != 900001 {
				got = append(got, strconv.Itoa(v))
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("%q, want %q", got, want)
		}
		return nil
	})
}

// A container is its pool's member from start to delete, and no longer, whoever deletes it.
func TestPool(t *testing.T) {
	for name, trust := range map[string]func(*pvetest.API) string{"authority": byAuthority, "fingerprint": byFingerprint} {
		t.Run(name, func(t *testing.T) {
			n, api := pooled(t, trust)
			for _, end := range []func(*harness.Container){
				func(c *harness.Container) { c.Stop(t); _ = c.Remove() },
				func(c *harness.Container) { _ = syscall.Kill(c.Shim(t), syscall.SIGKILL) },
			} {
				c := n.Start(t, harness.Forever())
				vmid := n.vmid()
				members(t, api, vmid)
				end(c)
				members(t, api)
				gone(t, n.path(vmid)) // of a shim that was killed somebody else is still clearing away
				gone(t, filepath.Join(lxcpath, vmid))
			}
		})
	}
}

// No container waits for the API, or fails with it.
func TestPoolAPIAnswersNothing(t *testing.T) {
	n, api := pooled(t, byAuthority)
	hold := make(chan struct{})
	api.Fail(pvetest.Hold(hold))
	c := n.Start(t, harness.Forever())
	if out := c.Sh(t, "echo fine"); out != "fine\n" {
		t.Errorf("the container says %q", out)
	}
	close(hold)
	members(t, api, n.vmid())
	refused := pvetest.Status(403, "Permission check failed (/pool/k8s, Pool.Allocate)")
	api.Fail(refused, refused) // who stopped it is asked, too
	c.Stop(t)
	if err := c.Remove(); err != nil {
		t.Errorf("delete: %v", err)
	}
	n.none("after delete")
	if log := n.Daemon.LogTail(50); !strings.Contains(log, "Permission check failed (/pool/k8s, Pool.Allocate)") {
		t.Errorf("PVE's own words are not in the log:\n%s", log)
	}
	if strings.Contains(n.Daemon.LogTail(1000), "12345678-1234") {
		t.Error("the token is in the log")
	}
}
