package cri

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// security changes a container's security context.
func security(change func(*cri.LinuxContainerSecurityContext)) containerOption {
	return func(c *cri.ContainerConfig) { change(c.Linux.SecurityContext) }
}

func id(n int64) *cri.Int64Value { return &cri.Int64Value{Value: n} }

// TestUser: who a container runs as. The image's user app is in the groups app, staff and audio.
func TestUser(t *testing.T) {
	tests := map[string]struct {
		change func(*cri.LinuxContainerSecurityContext)
		want   string // uid, gid, groups
	}{
		"the image's": {func(*cri.LinuxContainerSecurityContext) {}, "0 0 0"},
		"a user":      {func(s *cri.LinuxContainerSecurityContext) { s.RunAsUser = id(1000) }, "1000 1000 1000 2000 2001"},
		"a user that the image does not know": {
			func(s *cri.LinuxContainerSecurityContext) { s.RunAsUser = id(4321) }, "4321 0 0",
		},
		"a user's name": {func(s *cri.LinuxContainerSecurityContext) { s.RunAsUsername = "app" }, "1000 1000 1000 2000 2001"},
		"a group": {
			func(s *cri.LinuxContainerSecurityContext) { s.RunAsUser, s.RunAsGroup = id(1000), id(3000) }, "1000 3000 2000 2001 3000",
		},
		"supplemental groups": {
			func(s *cri.LinuxContainerSecurityContext) {
				s.RunAsUser, s.RunAsGroup, s.SupplementalGroups = id(1000), id(3000), []int64{4000, 5000}
			}, "1000 3000 2000 2001 3000 4000 5000",
		},
		"these supplemental groups alone": {
			func(s *cri.LinuxContainerSecurityContext) {
				s.RunAsUser, s.RunAsGroup, s.SupplementalGroups = id(1000), id(3000), []int64{4000, 5000}
				s.SupplementalGroupsPolicy = cri.SupplementalGroupsPolicy_Strict
			}, "1000 3000 3000 4000 5000",
		},
	}
	each(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				c := p.sleeper(t, security(test.change))
				status := harness.Status(t, c.pid(t))
				uid, gid := strings.Fields(status["Uid"])[0], strings.Fields(status["Gid"])[0]
				groups := slices.SortedFunc(slices.Values(strings.Fields(status["Groups"])), byNumber)
				equal(t, "ids", strings.Join(append([]string{uid, gid}, groups...), " "), test.want)
				equal(t, "ids of an exec", c.exec(t, "id -u; id -g"), uid+"\n"+gid)
				s, err := c.Status(e.ctx)
				if err != nil {
					t.Fatal(err)
				}
				told := []string{fmt.Sprint(s.User.GetLinux().GetUid()), fmt.Sprint(s.User.GetLinux().GetGid())}
				for _, g := range slices.Sorted(slices.Values(s.User.GetLinux().GetSupplementalGroups())) {
					told = append(told, fmt.Sprint(g))
				}
				equal(t, "ids that CRI tells", strings.Join(told, " "), test.want)
			})
		}
	})
}

func byNumber(a, b string) int {
	x, _ := strconv.Atoi(a)
	y, _ := strconv.Atoi(b)
	return x - y
}

// TestVolumeGroup: a volume that belongs to a group, as fsGroup has it, is writable by a user in it.
func TestVolumeGroup(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		dir := e.dir(t)
		if err := os.Chown(dir, 0, 4000); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o770|os.ModeSetgid); err != nil {
			t.Fatal(err)
		}
		p := e.pod(t)
		volume := mount(&cri.Mount{HostPath: dir, ContainerPath: "/data"})
		user := security(func(s *cri.LinuxContainerSecurityContext) {
			s.RunAsUser, s.SupplementalGroups = id(1000), []int64{4000}
		})
		equal(t, "group of a new file", p.output(t, "touch /data/new; stat -c %g /data/new", volume, user), "4000")
		stranger := security(func(s *cri.LinuxContainerSecurityContext) { s.RunAsUser = id(1000) })
		equal(t, "a stranger", p.output(t, "touch /data/other 2>/dev/null || echo refused", volume, stranger), "refused")
	})
}

// capabilities are the sets of a process.
func capabilities(t *testing.T, status map[string]string, set string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(status[set], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestCapabilities: what is added and dropped, for root, for users, for privileged containers; in the
// container's process and in execs.
func TestCapabilities(t *testing.T) {
	bit := func(n ...int) (set uint64) {
		for _, c := range n {
			set |= 1 << c
		}
		return set
	}
	usual := bit(unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FSETID, unix.CAP_FOWNER, unix.CAP_MKNOD, unix.CAP_NET_RAW, unix.CAP_SETGID,
		unix.CAP_SETUID, unix.CAP_SETFCAP, unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT, unix.CAP_KILL, unix.CAP_AUDIT_WRITE)
	tests := map[string]struct {
		given             *cri.Capability
		user              int64
		bounding, ambient uint64
		effective         uint64
	}{
		"the usual":   {bounding: usual, effective: usual},
		"one more":    {given: &cri.Capability{AddCapabilities: []string{"NET_ADMIN"}}, bounding: usual | bit(unix.CAP_NET_ADMIN), effective: usual | bit(unix.CAP_NET_ADMIN)},
		"one less":    {given: &cri.Capability{DropCapabilities: []string{"CHOWN"}}, bounding: usual &^ bit(unix.CAP_CHOWN), effective: usual &^ bit(unix.CAP_CHOWN)},
		"none":        {given: &cri.Capability{DropCapabilities: []string{"ALL"}}},
		"all but one": {given: &cri.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"CHOWN"}}, bounding: bit(unix.CAP_CHOWN), effective: bit(unix.CAP_CHOWN)},
		"of a user":   {user: 1000, bounding: usual},
	}
	each(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				c := p.sleeper(t, security(func(s *cri.LinuxContainerSecurityContext) {
					s.Capabilities = test.given
					if test.user != 0 {
						s.RunAsUser = id(test.user)
					}
				}))
				for what, status := range map[string]map[string]string{
					"process": harness.Status(t, c.pid(t)),
					"exec":    harness.ParseStatus(c.exec(t, "cat /proc/self/status")),
				} {
					for set, want := range map[string]uint64{"CapBnd": test.bounding, "CapAmb": 0, "CapEff": test.effective} {
						if got := capabilities(t, status, set); got != want {
							t.Errorf("%s of the %s is %#x, want %#x", set, what, got, want)
						}
					}
				}
			})
		}
	})
}

// TestPrivileged: a privileged container has all capabilities, the host's devices, writable /sys and
// control groups, and nothing masked or filtered.
func TestPrivileged(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		privileged := security(func(s *cri.LinuxContainerSecurityContext) { s.Privileged = true })
		p := e.pod(t, func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
		c := p.sleeper(t, privileged)
		status := harness.Status(t, c.pid(t))
		if got, want := capabilities(t, status, "CapEff"), capabilities(t, harness.Status(t, os.Getpid()), "CapBnd"); got != want {
			t.Errorf("effective capabilities %#x, want %#x", got, want)
		}
		equal(t, "seccomp", status["Seccomp"], "0")
		for _, device := range []string{"/dev/fuse", "/dev/kmsg"} {
			if _, err := os.Stat(device); err == nil {
				c.exec(t, "test -c "+device)
			}
		}
		c.exec(t, "mkdir /mnt && mount -t tmpfs none /mnt && umount /mnt")
		c.exec(t, "! grep -E ' /sys[ /].* ro,' /proc/self/mountinfo")
		equal(t, "masked paths", c.exec(t, "grep -c ' /proc/' /proc/self/mountinfo || true"), "0")
	})
}

// TestNoNewPrivileges is allowPrivilegeEscalation.
func TestNoNewPrivileges(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		for _, set := range []bool{false, true} {
			c := p.sleeper(t, security(func(s *cri.LinuxContainerSecurityContext) { s.NoNewPrivs = set }))
			want := map[bool]string{false: "0", true: "1"}[set]
			equal(t, "process", harness.Status(t, c.pid(t))["NoNewPrivs"], want)
			equal(t, "exec", harness.ParseStatus(c.exec(t, "cat /proc/self/status"))["NoNewPrivs"], want)
		}
	})
}

// TestReadOnlyRoot: readOnlyRootFilesystem leaves what is mounted writable, and nothing else.
func TestReadOnlyRoot(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		c := p.sleeper(t, security(func(s *cri.LinuxContainerSecurityContext) { s.ReadonlyRootfs = true }), mount(&cri.Mount{HostPath: e.dir(t), ContainerPath: "/data"}))
		equal(t, "writes", c.exec(t, "for f in /x /tmp/x /etc/x /data/x /dev/shm/x; do touch $f 2>/dev/null && echo $f; done; true"), "/data/x\n/dev/shm/x")
		c.exec(t, "touch /etc/hostname 2>/dev/null; grep -q nameserver /etc/resolv.conf")
	})
}

// TestProcMount: the paths of /proc that are masked, and those that are read-only, are those asked for.
func TestProcMount(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		masked := p.sleeper(t, security(func(s *cri.LinuxContainerSecurityContext) {
			s.MaskedPaths = []string{"/proc/keys", "/proc/tty", "/proc/no-such-thing"}
			s.ReadonlyPaths = []string{"/proc/sys"}
		}))
		equal(t, "/proc/keys", masked.exec(t, "wc -c < /proc/keys"), "0")
		equal(t, "/proc/tty", masked.exec(t, "ls /proc/tty"), "")
		equal(t, "/proc/sys", masked.exec(t, "echo 1 2>/dev/null > /proc/sys/kernel/domainname || echo read-only"), "read-only")
		open := p.sleeper(t, security(func(s *cri.LinuxContainerSecurityContext) { s.MaskedPaths, s.ReadonlyPaths = []string{}, []string{} }))
		equal(t, "mounts on /proc", open.exec(t, "grep -c ' /proc/' /proc/self/mountinfo || true"), "0")
	})
}

// denied is a seccomp profile without mkdir.
const denied = `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}`

// TestSeccomp: no profile, the runtime's, and one from a file.
func TestSeccomp(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		profile := filepath.Join(e.dir(t), "profile.json")
		if err := os.WriteFile(profile, []byte(denied), 0o600); err != nil {
			t.Fatal(err)
		}
		p := e.pod(t)
		with := func(kind cri.SecurityProfile_ProfileType, file string) containerOption {
			return security(func(s *cri.LinuxContainerSecurityContext) {
				s.Seccomp = &cri.SecurityProfile{ProfileType: kind, LocalhostRef: file}
			})
		}
		unconfined := p.sleeper(t, with(cri.SecurityProfile_Unconfined, ""))
		equal(t, "unconfined", harness.Status(t, unconfined.pid(t))["Seccomp"], "0")
		unconfined.exec(t, "unshare -U true")
		usual := p.sleeper(t, with(cri.SecurityProfile_RuntimeDefault, ""))
		equal(t, "the runtime's", harness.Status(t, usual.pid(t))["Seccomp"], "2")
		equal(t, "a new user namespace", usual.exec(t, "unshare -U true 2>/dev/null || echo refused"), "refused")
		equal(t, "an exec", harness.ParseStatus(usual.exec(t, "cat /proc/self/status"))["Seccomp"], "2")
		own := p.sleeper(t, with(cri.SecurityProfile_Localhost, profile))
		if got := own.exec(t, "mkdir /tmp/new 2>&1 || true"); !strings.Contains(got, "not supported") {
			t.Errorf("mkdir under a profile that denies it: %q", got)
		}
		_, err := p.tryCreate(forever, with(cri.SecurityProfile_Localhost, profile+".not"))
		mustFail(t, "a profile that is not there", err, "no such file")
	})
}

// TestLinuxSecurityModules: a host without AppArmor and SELinux does not mind being told of them, and
// refuses a profile it cannot load.
func TestLinuxSecurityModules(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/security/apparmor"); err == nil {
		t.Skip("the host has AppArmor: package machine tests what it does")
	}
	each(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		p.output(t, "true", security(func(s *cri.LinuxContainerSecurityContext) {
			s.Apparmor = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
			s.SelinuxOptions = &cri.SELinuxOption{User: "system_u", Role: "system_r", Type: "container_t", Level: "s0:c1,c2"}
		}))
		_, err := p.tryCreate(forever, security(func(s *cri.LinuxContainerSecurityContext) {
			s.Apparmor = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "localhost/no-such-profile"}
		}))
		mustFail(t, "a profile that is not loaded", err, "pparmor", "AppArmor")
	})
}

// TestSysctls: a pod's sysctls hold in all of its containers; those that are the host's are refused.
func TestSysctls(t *testing.T) {
	sysctls := map[string]string{"net.core.somaxconn": "1234", "kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "80"}
	with := func(values map[string]string) podOption {
		return func(c *cri.PodSandboxConfig) { c.Linux.Sysctls = maps.Clone(values) }
	}
	each(t, func(t *testing.T, e *env) {
		for _, change := range []func(*cri.NamespaceOption){func(*cri.NamespaceOption) {}, withUserNamespace} {
			c := e.pod(t, with(sysctls), namespaces(change)).sleeper(t)
			for name, want := range sysctls {
				equal(t, name, c.exec(t, "cat /proc/sys/"+strings.ReplaceAll(name, ".", "/")), want)
			}
		}
		_, err := e.tryPod(t, with(map[string]string{"vm.swappiness": "1"}))
		mustFail(t, "a sysctl of the host", err, "vm.swappiness")
	})
}

// TestUserNamespace: root in a pod with a user namespace is a nobody on the host, in every container, in
// execs, and in the files it makes.
func TestUserNamespace(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		volume := e.dir(t)
		p := e.pod(t, namespaces(withUserNamespace))
		c := p.sleeper(t, mount(&cri.Mount{HostPath: volume, ContainerPath: "/data", UidMappings: ids(), GidMappings: ids()}))
		equal(t, "root on the host", harness.Status(t, c.pid(t))["Uid"], fmt.Sprintf("%[1]d\t%[1]d\t%[1]d\t%[1]d", userBase))
		equal(t, "map", strings.Join(strings.Fields(c.exec(t, "id -u; cat /proc/self/uid_map")), " "), fmt.Sprintf("0 0 %d 65536", userBase))
		equal(t, "owner of the image's files", c.exec(t, "stat -c %u /bin/busybox; stat -c %u /home/app"), "0\n1000")
		c.exec(t, "touch /data/new && chown 1000:1000 /data/new && echo x > /etc/new")
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(volume, "new"), &st); err != nil {
			t.Fatal(err)
		}
		if st.Uid != 1000 || st.Gid != 1000 {
			t.Errorf("the new file on the host belongs to %d:%d, want 1000:1000", st.Uid, st.Gid)
		}
		equal(t, "DNS", c.exec(t, "grep -c nameserver /etc/resolv.conf"), "1")
		c.exec(t, "ip link set lo down && ip link set lo up 2>/dev/null; ping -c 1 -W 5 10.88.0.1 >/dev/null")
	})
}
