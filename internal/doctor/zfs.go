package doctor

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// zfsResult answers for a node without ZFS, or with a configuration that cannot be read; nil
// otherwise.
func (n *Node) zfsResult() (snapshotterConfig, *Result) {
	c, used, err := n.snapshotter()
	var r Result
	switch {
	case err != nil:
		r = failure("pvelxc-snapshotter -check", "%v", err)
	case !used:
		r = skipped("no %s: containers are on another snapshotter", SnapshotterFile)
	default:
		return c, nil
	}
	return c, &r
}

func poolHealth(ctx context.Context, n *Node) Result {
	c, r := n.zfsResult()
	if r != nil {
		return *r
	}
	pool, _, _ := strings.Cut(c.Root, "/")
	out, err := n.Run(ctx, "zpool", "list", "-Hpo", "health,capacity", pool)
	if err != nil {
		return failure("zpool import "+pool, "the pool %s cannot be read: %v", pool, err)
	}
	f := strings.Fields(out)
	if len(f) != 2 {
		return failure("zpool status "+pool, "cannot read %q", out)
	}
	full, err := strconv.Atoi(strings.TrimSuffix(f[1], "%"))
	switch {
	case err != nil:
		return failure("zpool status "+pool, "cannot read %q", out)
	case f[0] != "ONLINE" && f[0] != "DEGRADED":
		return failure("zpool status "+pool, "the pool %s is %s", pool, f[0])
	case full >= 95:
		return failure("remove images and containers: crictl rmi --prune", "the pool %s is %d%% full", pool, full)
	case f[0] == "DEGRADED":
		return warning("zpool status "+pool, "the pool %s is DEGRADED", pool)
	case full >= 80:
		return warning("remove images and containers: crictl rmi --prune", "the pool %s is %d%% full: ZFS becomes slow", pool, full)
	}
	return ok("%s is ONLINE, %d%% full", pool, full)
}

// RootProperties are those that the snapshotter's dataset should have, in this order. Those
// that it was made with and that cannot hurt when they differ are not among them.
var RootProperties = [][2]string{
	{"canmount", "off"}, {"mountpoint", "legacy"}, {"atime", "off"}, {"xattr", "sa"}, {"acltype", "posix"},
	{"com.sun:auto-snapshot", "false"},
}

func rootProperties(ctx context.Context, n *Node) Result {
	c, r := n.zfsResult()
	if r != nil {
		return *r
	}
	names := make([]string, len(RootProperties))
	for i, p := range RootProperties {
		names[i] = p[0]
	}
	out, err := n.Run(ctx, "zfs", "get", "-Hpo", "property,value", strings.Join(names, ","), c.Root)
	if err != nil {
		return failure("systemctl start pvelxc-snapshotter, which makes it", "the dataset %s cannot be read: %v", c.Root, err)
	}
	have := map[string]string{}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "\t")
		have[name] = value
	}
	// OpenZFS shows "sa" as "on" since 2.3; before, "on" was "dir".
	if version, err := n.Read("/sys/module/zfs/version"); err == nil && release(version) >= 2003 && have["xattr"] == "on" {
		have["xattr"] = "sa"
	}
	var set []string
	for _, p := range RootProperties {
		// "posixacl" is the old name of "posix"; canmount and mountpoint say the same of a
		// dataset that nobody mounts.
		value := strings.TrimSuffix(have[p[0]], "acl")
		if value != p[1] && (p[0] != "mountpoint" || value != "none") {
			set = append(set, p[0]+"="+p[1])
		}
	}
	if len(set) == 0 {
		return ok("%s has the properties it should have", c.Root)
	}
	args := append(append([]string{"set"}, set...), c.Root)
	return warning("zfs "+strings.Join(args, " "), "%s differs in %s", c.Root, strings.Join(set, ", ")).mendedBy(func(ctx context.Context) error {
		_, err := n.Run(ctx, "zfs", args...)
		return err
	})
}

// foreignNames begin the names of snapshots that tools make.
var foreignNames = []string{"autosnap_", "zrepl_", "zfs-auto-snap_", "autozsys_", "syncoid_", "znapzend", "pyznap_"}

func autoSnapshots(ctx context.Context, n *Node) Result {
	c, r := n.zfsResult()
	if r != nil {
		return *r
	}
	exclude := "exclude " + c.Root + " there, or set foreign_snapshots = \"destroy\""
	out, err := n.Run(ctx, "zfs", "list", "-Hpo", "name", "-t", "snapshot", "-r", c.Root)
	if err != nil {
		return failure("zfs list -r "+c.Root, "snapshots cannot be listed: %v", err)
	}
	count, first := 0, ""
	for line := range strings.Lines(out) {
		_, name, _ := strings.Cut(strings.TrimSpace(line), "@")
		for _, prefix := range foreignNames {
			if strings.HasPrefix(name, prefix) {
				if count++; first == "" {
					first = strings.TrimSpace(line)
				}
			}
		}
	}
	if count > 0 {
		return warning(exclude, "%d snapshots of another tool hold up the removal of images, %s the first", count, first)
	}
	if tool := n.snapshotTool(c.Root); tool != "" {
		return warning(exclude, "%s makes snapshots of %s", tool, c.Root)
	}
	if caches := n.Glob("/etc/zfs/zfs-list.cache/*"); len(caches) > 0 {
		return warning("rm "+caches[0]+", unless the system boots from it", "ZED lists the whole pool at every create and destroy, for %s", caches[0])
	}
	return ok("no snapshot tool works below %s", c.Root)
}

// snapshotTool names a configured tool that covers the dataset; empty for none.
func (n *Node) snapshotTool(root string) string {
	if text, err := n.Read("/etc/sanoid/sanoid.conf"); err == nil {
		section := ""
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "[") {
				section = strings.Trim(line, "[]")
			}
			key, value, _ := strings.Cut(strings.ReplaceAll(line, " ", ""), "=")
			recursive := key == "recursive" && (value == "yes" || value == "zfs" || value == "1" || value == "true")
			if section == root && key == "use_template" || recursive && strings.HasPrefix(root+"/", section+"/") {
				return "sanoid (/etc/sanoid/sanoid.conf)"
			}
		}
	}
	if text, err := n.Read("/etc/zrepl/zrepl.yml"); err == nil {
		// A filter "pool<" covers all below; "pool/data<: false" takes a part out again.
		covered := false
		for line := range strings.Lines(text) {
			name, value, found := strings.Cut(strings.TrimSpace(line), ":")
			name, below := strings.CutSuffix(strings.Trim(name, `"' `), "<")
			if !found || !below || name != "" && !strings.HasPrefix(root+"/", name+"/") {
				continue
			}
			switch strings.TrimSpace(value) {
			case "true":
				covered = true
			case "false":
				return ""
			}
		}
		if covered {
			return "zrepl (/etc/zrepl/zrepl.yml)"
		}
	}
	if n.Exists("/sbin/zsysd") || n.Exists("/usr/sbin/zsysd") {
		return "zsys"
	}
	return ""
}

func orphans(ctx context.Context, n *Node) Result {
	c, r := n.zfsResult()
	if r != nil {
		return *r
	}
	out, err := n.Run(ctx, "zfs", "list", "-Hpo", "name", "-t", "filesystem", "-d", "1", c.Root+"/s")
	if err != nil {
		return skipped("%s has no datasets yet", c.Root)
	}
	datasets := max(0, strings.Count(out, "\n")-1)
	rows, err := countSnapshots(ctx, n.At(c.Address))
	if err != nil {
		return skipped("%d datasets; the snapshotter does not tell of how many snapshots (snapshotter-socket says why)", datasets)
	}
	if left := datasets - rows - c.WarmLayers*c.WarmClones; left > 0 {
		return warning(fmt.Sprintf("look for what holds them: zfs list -rt all %s/s, journalctl -u pvelxc-snapshotter", c.Root),
			"%d datasets for %d snapshots: %d were removed and cannot be destroyed", datasets, rows, left)
	}
	return ok("%d datasets for %d snapshots", datasets, rows)
}
