package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/log"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/shim/reaper"
)

// apiTimeout bounds each question to PVE's API: one that is away must not hold up the
// deletion of a container for long.
const apiTimeout = 5 * time.Second

// beside runs `pvelxc`, which stands beside the shim, and returns what it prints: a TLS
// client would make every shim a third larger for what few nodes have configured.
func beside(ctx context.Context, args ...string) ([]byte, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(filepath.Join(filepath.Dir(self), "pvelxc"), args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	exit, err := reaper.Run(ctx, cmd)
	if err != nil {
		return nil, err
	}
	if exit.Code() != 0 {
		return nil, fmt.Errorf("exit status %d: %s", exit.Code(), bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// tellWhoStopped logs the administrator who ended the container, if one did: a pod's container
// is deleted as soon as it has ended, and its pod shows a number alone. It is asked by `pvelxc
// stopped`.
func (r *registration) tellWhoStopped(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	entry := log.G(ctx).WithField("vmid", r.reg.VMID).WithField("id", r.reg.ID).WithField("namespace", r.reg.Namespace)
	text, err := beside(ctx, "stopped", r.client.Node, r.reg.VMID.String(), strconv.FormatInt(r.since.Unix(), 10))
	if err != nil {
		entry.WithError(err).Warn("who stopped the container")
		return
	}
	if by := strings.TrimSpace(string(text)); by != "" {
		entry.WithField("by", by).Info("stopped in Proxmox VE")
	}
}

// elsewhere asks the API by `pvelxc guest`; nil without a token. Once it does not answer it
// is asked no more.
func elsewhere(conf config.API) func(context.Context, pve.VMID) (pve.Remote, bool) {
	if conf.TokenFile == "" {
		return nil
	}
	var failed bool
	return func(ctx context.Context, vmid pve.VMID) (pve.Remote, bool) {
		if failed {
			return pve.Remote{}, false
		}
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		var g pve.Remote
		text, err := beside(ctx, "guest", vmid.String())
		if err == nil && len(text) > 0 {
			err = json.Unmarshal(text, &g)
		}
		if err != nil {
			failed = true
			log.G(ctx).WithField("vmid", vmid).WithError(err).Warn("state of a guest on another node")
			return pve.Remote{}, false
		}
		return g, len(text) > 0
	}
}
