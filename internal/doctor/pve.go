package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/internal/node"
	"github.com/pvelxc/pvelxc/pve"
)

func pveVersion(ctx context.Context, n *Node) Result {
	if !n.isPVE() {
		return noPVE
	}
	out, err := n.Run(ctx, "pveversion")
	if err != nil {
		return warning("apt install pve-manager", "%s is there and Proxmox VE's version cannot be asked: %v", n.clusterDir(), err)
	}
	version := strings.TrimSpace(out)
	switch v := release(version); {
	case v < 8000:
		return failure("upgrade to Proxmox VE 8 or 9", "%s is older than 8", version)
	case v >= 10000:
		return warning("read docs/compatibility.md for news", "%s is newer than what pvelxc was tested with", version)
	}
	return ok("%s", version)
}

func quorum(_ context.Context, n *Node) Result {
	if !n.isPVE() {
		return noPVE
	}
	dir := n.clusterDir()
	info, err := os.Lstat(n.At(filepath.Join(dir, "local")))
	if err != nil {
		return failure("systemctl status pve-cluster", "%s is there and no cluster file system is mounted: new containers start unregistered", dir)
	}
	c, err := n.cluster()
	if err != nil {
		return failure("systemctl status pve-cluster", "the cluster file system does not answer: %v", err)
	}
	votes := ""
	online, nodes := 0, 1
	if m := c.Members; m.Cluster != nil {
		nodes = m.Cluster.Nodes
		for _, node := range m.Nodes {
			online += node.Online
		}
		votes = " (" + itoa(online) + "/" + itoa(nodes) + " votes)"
	}
	// Without quorum pmxcfs takes the write permissions of everything away; PVE asks so, too.
	if info.Mode()&0o200 == 0 || c.Members.Cluster != nil && c.Members.Cluster.Quorate == 0 {
		return failure("bring nodes back, or on the last resort: pvecm expected 1", "cluster not quorate%s: new containers start unregistered", votes)
	}
	if c.Members.Cluster == nil {
		return ok("a node of no cluster")
	}
	if online <= nodes/2+1 && online < nodes {
		return warning("bring nodes back", "quorate%s, and the next node that goes takes the quorum with it", votes)
	}
	return ok("quorate%s", votes)
}

// pmxcfsLimit is the size of the cluster's database.
const pmxcfsLimit = 128 << 20

func pmxcfsSpace(_ context.Context, n *Node) Result {
	if !n.isPVE() {
		return noPVE
	}
	// The database keeps its size when files go, so what the file system says is nearer the truth.
	st, err := n.Statfs(n.clusterDir())
	if err != nil {
		return failure("systemctl status pve-cluster", "the cluster file system does not answer: %v", err)
	}
	total, free := st.Blocks*uint64(st.Bsize), st.Bfree*uint64(st.Bsize)
	if total == 0 {
		return skipped("the cluster file system does not tell its size")
	}
	const conf = 4096
	percent := 100 - int(free*100/total)
	switch {
	case free < 100*conf:
		return failure("remove what is large below "+n.clusterDir(), "the cluster file system is full (%d%% of %d MiB): nothing can be registered", percent, total>>20)
	case percent >= 80:
		return warning("remove what is large below "+n.clusterDir(), "the cluster file system is %d%% full (of %d MiB)", percent, total>>20)
	}
	return ok("%d%% of %d MiB used", percent, min(total, pmxcfsLimit)>>20)
}

func vmidRange(ctx context.Context, n *Node) Result {
	r, err := n.vmidRange()
	if err != nil {
		return failure("correct pve.vmid_range in /etc/pvelxc/config.toml", "%v", err)
	}
	if !n.isPVE() {
		return ok("%s, for a local directory", r)
	}
	if lower, upper, found := n.nextID(); found && lower <= r.Last && upper >= r.First {
		return warning("set next-id in /etc/pve/datacenter.cfg apart from "+r.String(), "Proxmox VE gives new guests VMIDs of %s-%s, which %s overlaps", lower, upper, r)
	}
	c, err := n.cluster()
	if err != nil {
		return failure("systemctl status pve-cluster", "the list of VMIDs cannot be read: %v", err)
	}
	taken, foreign := 0, pve.VMID(0)
	for id, guest := range c.Guests.IDs {
		vmid, err := pve.ParseVMID(id)
		if err != nil || !r.Contains(vmid) {
			continue
		}
		taken++
		if guest.Type != "lxc" && (foreign == 0 || vmid < foreign) {
			foreign = vmid
		}
	}
	switch free := r.Size() - taken; {
	case free == 0:
		return failure("pvelxc gc --apply, or widen pve.vmid_range", "no free VMID in %s (%d used)", r, taken)
	case foreign != 0:
		return warning("choose another pve.vmid_range", "VMID %s in %s is a virtual machine's", foreign, r)
	case free < r.Size()/5:
		return warning("pvelxc gc --apply, or widen pve.vmid_range", "%d of %d VMIDs in %s are free", free, r.Size(), r)
	}
	return ok("%s, %d used", r, taken)
}

// registrations counts the containers that started while the cluster could not be asked. They
// stay unknown: under their LXC names PVE would not find them.
func registrations(_ context.Context, n *Node) Result {
	if n.Config.Registration == config.RegisterNone {
		return skipped(`registration = "none"`)
	}
	list, err := n.Containers()
	if err != nil {
		return failure("pvelxc list", "the containers cannot be listed: %v", err)
	}
	unregistered, registered := 0, 0
	var first node.Container
	for _, c := range list {
		switch {
		case c.Deleting:
		case c.VMID != 0:
			registered++
		case c.Unregistered != "":
			if unregistered++; unregistered == 1 {
				first = c
			}
		}
	}
	if unregistered > 0 {
		return warning("make them anew (delete the pod, nerdctl rm and run); pvelxc list shows which they are",
			"%d of %d containers are unknown to Proxmox VE, among them %s/%s: %s", unregistered, registered+unregistered, first.Namespace, first.ID, first.Unregistered)
	}
	return ok("%d containers are registered", registered)
}

// nextID is datacenter.cfg's range for new guests: "next-id: lower=100,upper=1000".
func (n *Node) nextID() (lower, upper pve.VMID, ok bool) {
	text, err := n.Read(filepath.Join(n.clusterDir(), "datacenter.cfg"))
	if err != nil {
		return 0, 0, false
	}
	for line := range strings.Lines(text) {
		rest, found := strings.CutPrefix(line, "next-id:")
		if !found {
			continue
		}
		lower, upper = 100, 1000000
		for part := range strings.SplitSeq(strings.TrimSpace(rest), ",") {
			key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			v, err := pve.ParseVMID(value)
			switch {
			case err != nil:
			case key == "lower":
				lower = v
			case key == "upper":
				upper = v
			}
		}
		return lower, upper, true
	}
	return 0, 0, false
}

func backupJobs(_ context.Context, n *Node) Result {
	if !n.isPVE() {
		return noPVE
	}
	text, err := n.Read(filepath.Join(n.clusterDir(), "jobs.cfg"))
	if errors.Is(err, fs.ErrNotExist) {
		return ok("no backup jobs")
	}
	if err != nil {
		return warning("systemctl status pve-cluster", "the backup jobs cannot be read: %v", err)
	}
	jobs := 0
	for _, s := range sections(text) {
		if s.kind != "vzdump" {
			continue
		}
		jobs++
		if s.keys["all"] == "1" && s.keys["enabled"] != "0" && s.keys["exclude"] == "" {
			return warning("give the job a pool, or a list of guests, instead of all", "backup job %s takes every guest: it freezes each container, and what it saves cannot be restored as a container of pvelxc", s.id)
		}
	}
	return ok("%d backup jobs, none takes every guest", jobs)
}

func haConflict(_ context.Context, n *Node) Result {
	if !n.isPVE() {
		return noPVE
	}
	r, err := n.vmidRange()
	if err != nil {
		return failure("correct pve.vmid_range in /etc/pvelxc/config.toml", "%v", err)
	}
	text, err := n.Read(filepath.Join(n.clusterDir(), "ha/resources.cfg"))
	if errors.Is(err, fs.ErrNotExist) {
		return ok("no HA resources")
	}
	if err != nil {
		return warning("systemctl status pve-cluster", "the HA resources cannot be read: %v", err)
	}
	for _, s := range sections(text) {
		if vmid, err := pve.ParseVMID(s.id); err == nil && s.kind == "ct" && r.Contains(vmid) {
			return failure("ha-manager remove ct:"+s.id, "container %s is a resource of the HA manager, which tries to start it again and again, and moves its conf when the node is fenced", s.id)
		}
	}
	return ok("no container is a resource of the HA manager")
}

// section is one of a section file of Proxmox VE: "kind: id", then indented "key value".
type section struct {
	kind, id string
	keys     map[string]string
}

func sections(text string) []section {
	var out []section
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		indented := strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")
		switch {
		case trimmed == "" || strings.HasPrefix(trimmed, "#"):
		case !indented:
			kind, id, _ := strings.Cut(trimmed, ":")
			out = append(out, section{strings.TrimSpace(kind), strings.TrimSpace(id), map[string]string{}})
		case len(out) > 0:
			key, value, _ := strings.Cut(trimmed, " ")
			out[len(out)-1].keys[key] = strings.TrimSpace(value)
		}
	}
	return out
}
