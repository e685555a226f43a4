package doctor

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// numbers are the first two of a version.
var numbers = regexp.MustCompile(`([0-9]+)\.([0-9]+)`)

// release is major*1000+minor; 0 when text has no version.
func release(text string) int {
	m := numbers.FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	major, err1 := strconv.Atoi(m[1])
	minor, err2 := strconv.Atoi(m[2])
	if err1 != nil || err2 != nil {
		return 0
	}
	return major*1000 + minor
}

func lxcVersion(ctx context.Context, n *Node) Result {
	out, err := n.Run(ctx, "lxc-info", "--version")
	if err != nil {
		return failure("apt install lxc", "liblxc's tools are missing: %v", err)
	}
	version := strings.TrimSpace(out)
	switch v := release(version); {
	case v == 0:
		return warning("lxc-info --version", "cannot read the version %q", version)
	case v < 5000:
		return failure("upgrade to Debian 12 or Proxmox VE 8 at least", "liblxc %s is older than 5.0", version)
	}
	return ok("liblxc %s", version)
}

func kernel(_ context.Context, n *Node) Result {
	version := n.Word("/proc/sys/kernel/osrelease")
	switch v := release(version); {
	case v == 0:
		return failure("mount -t proc proc /proc", "cannot read /proc/sys/kernel/osrelease")
	case v < 5012:
		return failure("boot a newer kernel", "Linux %s is older than 5.12, which has detached mounts with ids mapped", version)
	case v < 5019:
		return warning("boot Linux 5.19 or newer", "Linux %s cannot map the ids of an overlay, which unprivileged containers on overlayfs need", version)
	}
	return ok("Linux %s", version)
}

// controllers are those that limits of the runtime specification need.
var controllers = []string{"cpu", "cpuset", "io", "memory", "pids"}

func cgroup2(_ context.Context, n *Node) Result {
	have, err := n.Read("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return warning("boot with systemd.unified_cgroup_hierarchy=1", "the host has cgroup v1 or a hybrid of both: it works, and Proxmox VE 9 shows no usage with it")
	}
	var missing []string
	for _, c := range controllers {
		if !slices.Contains(strings.Fields(have), c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return failure("remove cgroup_disable= from the kernel's command line", "cgroup v2 without the controllers %s: their limits cannot be set", strings.Join(missing, ", "))
	}
	return ok("cgroup v2 with %s", strings.Join(controllers, ", "))
}

// Profile is the AppArmor profile for containers, and where it is installed.
const (
	Profile     = "pvelxc-container"
	profileFile = "/etc/apparmor.d/pvelxc-container"
)

func appArmor(_ context.Context, n *Node) Result {
	if n.Word("/sys/module/apparmor/parameters/enabled") != "Y" {
		return warning("boot with apparmor=1 security=apparmor", "AppArmor is off: nothing but capabilities and seccomp confines a container that is privileged")
	}
	loaded, err := n.Read("/sys/kernel/security/apparmor/profiles")
	if err != nil {
		return warning("mount -t securityfs securityfs /sys/kernel/security", "cannot list AppArmor's profiles: %v", err)
	}
	for line := range strings.Lines(loaded) {
		if name, mode, _ := strings.Cut(strings.TrimSpace(line), " ("); name == Profile {
			if mode = strings.TrimSuffix(mode, ")"); mode != "enforce" {
				return warning("aa-enforce "+profileFile, "the profile %s is in mode %s", Profile, mode)
			}
			return ok("the profile %s is enforced", Profile)
		}
	}
	load := "apparmor_parser -r " + profileFile
	return warning(load, "the profile %s is not loaded", Profile).mendedBy(func(ctx context.Context) error {
		_, err := n.Run(ctx, "apparmor_parser", "-r", n.At(profileFile))
		return err
	})
}

// Ids that Proxmox VE's unprivileged containers have, and ours.
const (
	firstID = 100000
	manyIDs = 65536
	idLine  = "root:100000:65536"
)

func subordinateIDs(_ context.Context, n *Node) Result {
	var missing []string
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		text, err := n.Read(file)
		if err != nil {
			text = ""
		}
		mapped, other := false, ""
		for line := range strings.Lines(text) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if len(f) != 3 {
				continue
			}
			first, err1 := strconv.ParseUint(f[1], 10, 32)
			count, err2 := strconv.ParseUint(f[2], 10, 32)
			if err1 != nil || err2 != nil {
				continue
			}
			switch {
			case f[0] == "root" && first <= firstID && first+count >= firstID+manyIDs:
				mapped = true
			case f[0] != "root" && first < firstID+manyIDs && first+count > firstID:
				other = f[0]
			}
		}
		if other != "" {
			return warning("give "+other+" another range in "+file, "%s gives ids of unprivileged containers to the user %s, who could act as their root", file, other)
		}
		if !mapped {
			missing = append(missing, file)
		}
	}
	if len(missing) == 0 {
		return ok("root maps %d to %d", firstID, firstID+manyIDs-1)
	}
	list := strings.Join(missing, " ")
	return warning("echo "+idLine+" | tee -a "+list, "%s lacks %s: Proxmox VE's tools refuse unprivileged containers", list, idLine).mendedBy(func(context.Context) error {
		for _, file := range missing {
			text, err := n.Read(file)
			if err != nil && n.Exists(file) {
				return err
			}
			if text != "" && !strings.HasSuffix(text, "\n") {
				text += "\n"
			}
			if err := n.Write(file, []byte(text+idLine+"\n"), 0o644); err != nil {
				return fmt.Errorf("write %s: %w", file, err)
			}
		}
		return nil
	})
}

func lxcfs(_ context.Context, n *Node) Result {
	if n.Exists("/var/lib/lxcfs/proc/meminfo") {
		return ok("lxcfs is mounted at /var/lib/lxcfs")
	}
	if !n.isPVE() {
		return skipped("no lxcfs, and no Proxmox VE that wants it")
	}
	return warning("systemctl enable --now lxcfs", "lxcfs is not mounted: Proxmox VE's own containers see the host's memory as theirs").mendedBy(func(ctx context.Context) error {
		_, err := n.Run(ctx, "systemctl", "enable", "--now", "lxcfs.service")
		return err
	})
}

func criu(ctx context.Context, n *Node) Result {
	out, err := n.Run(ctx, "criu", "--version")
	if err != nil {
		return skipped("no CRIU: checkpoints are refused")
	}
	if v := release(out); v < 3017 {
		return warning("apt install criu, or remove it", "CRIU %q is older than 3.17", strings.TrimSpace(out))
	}
	return ok("%s", strings.Join(strings.Fields(out), " "))
}
