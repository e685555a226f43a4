package container

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/containerd/containerd/api/events"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/criu"
)

// Checkpoint dumps the container's processes into the directory at images, with CRIU and in runc's form. liblxc's own support for
// CRIU is of no use: it wants the mounts described in its config, where the mount hook makes them here.
func (c *Container) Checkpoint(ctx context.Context, images string, options *anypb.Any) error {
	o, err := checkpointOptions(options)
	if err != nil {
		return fmt.Errorf("checkpoint container %s: %w", c.id, err)
	}
	if err := c.checkpoint(ctx, images, o); err != nil {
		return fmt.Errorf("checkpoint container %s: %w", c.id, err)
	}
	c.emit(&events.TaskCheckpointed{ContainerID: c.id, Checkpoint: images})
	return nil
}

func checkpointOptions(options *anypb.Any) (*runcoptions.CheckpointOptions, error) {
	o := new(runcoptions.CheckpointOptions)
	if options == nil || len(options.Value) == 0 {
		return o, nil
	}
	if name := options.MessageName(); name != o.ProtoReflect().Descriptor().FullName() {
		return nil, fmt.Errorf("options of type %q are not known: %w (hint: use containerd.runc.v1.CheckpointOptions)", name, errdefs.ErrInvalidArgument)
	}
	if err := proto.Unmarshal(options.Value, o); err != nil {
		return nil, fmt.Errorf("options: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if o.ParentPath != "" {
		return nil, fmt.Errorf("a checkpoint on top of another (parent_path) is not supported: %w", errdefs.ErrNotImplemented)
	}
	return o, nil
}

func (c *Container) checkpoint(ctx context.Context, images string, o *runcoptions.CheckpointOptions) error {
	if s := c.init.State().Status; s != StatusRunning && s != StatusPaused {
		return fmt.Errorf("it is %s: %w", s, errdefs.ErrFailedPrecondition)
	}
	if o.ImagePath != "" {
		images = o.ImagePath
	}
	work := o.WorkPath
	if work == "" {
		work = filepath.Join(c.dirs.home, "criu")
	}
	for _, dir := range []string{images, work} {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("directory %q is not absolute: %w", dir, errdefs.ErrInvalidArgument)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	pid := c.Pid()
	mounts, err := c.foreignMounts(pid)
	if err != nil {
		return err
	}
	spaces, err := c.foreignNamespaces(pid)
	if err != nil {
		return err
	}
	err = criu.Dump{
		Pid: pid, Root: c.plan.Rootfs.Path, Images: images, Work: work, Freezer: c.group.Freezer(), Mounts: mounts, Namespaces: spaces,
		LeaveRunning: !o.Exit, CgroupsMode: o.CgroupsMode, EmptyNamespaces: o.EmptyNamespaces,
		TCP: o.OpenTcp, UnixSockets: o.ExternalUnixSockets, Terminal: o.Terminal || c.init.streams.Terminal, FileLocks: o.FileLocks,
	}.Run(ctx)
	if err != nil || !o.Exit {
		return err
	}
	// CRIU has killed them; what is frozen dies when it is thawed.
	return c.thawKilled(ctx, syscall.SIGKILL)
}

// foreignMounts are those of the container's mounts that came from the host.
func (c *Container) foreignMounts(pid int) ([]criu.Mount, error) {
	points, err := mountPoints(pid)
	if err != nil {
		return nil, err
	}
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the container's root: %w", err)
	}
	defer unix.Close(root)
	var list []criu.Mount
	add := func(destination, name string) error {
		point, err := mountPointOf(root, destination, points)
		if err != nil || point == "" || point == "/" {
			return err
		}
		if name == "" {
			name = point
		}
		if !slices.ContainsFunc(list, func(m criu.Mount) bool { return m.Point == point }) {
			list = append(list, criu.Mount{Point: point, Name: name})
		}
		return nil
	}
	for _, m := range c.plan.Mounts {
		var err error
		switch m.Kind {
		case oci2lxc.MountTree, oci2lxc.MountHostFS:
			err = add(m.Destination, "")
		case oci2lxc.MountCgroup:
			err = c.foreignCgroups(m, pid, add)
		}
		if err != nil {
			return nil, err
		}
	}
	if c.plan.IDMap != nil {
		for _, d := range c.plan.Devices {
			if err := add(d.Path, ""); err != nil {
				return nil, err
			}
		}
	}
	// Files are masked with the host's null device, directories with a tmpfs of the container's own.
	for _, p := range c.plan.Setup.MaskedPaths {
		if info, err := os.Stat(filepath.Join(fmt.Sprintf("/proc/%d/root", pid), p)); err == nil && !info.IsDir() {
			if err := add(p, os.DevNull); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

// foreignCgroups adds the mounts that show a container its control groups, unless it has made the one itself.
func (c *Container) foreignCgroups(m oci2lxc.Mount, pid int, add func(destination, name string) error) error {
	paths, err := c.group.Controllers(pid)
	if err != nil {
		return err
	}
	if c.state.CgroupMode == oci2lxc.CgroupUnified {
		if c.plan.Namespace(specs.CgroupNamespace).Mode != oci2lxc.NamespaceHost {
			return nil
		}
		return add(m.Destination, "")
	}
	for name := range paths {
		if err := add(path.Join(m.Destination, name), ""); err != nil {
			return err
		}
	}
	return nil
}

// foreignNamespaces are those that CRIU must not make anew at a restore, of the kinds that it knows so.
func (c *Container) foreignNamespaces(pid int) ([]criu.Namespace, error) {
	var list []criu.Namespace
	for t, kind := range map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.PIDNamespace: "pid"} {
		if c.plan.Namespace(t).Mode != oci2lxc.NamespaceJoin {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), &st); err != nil {
			return nil, fmt.Errorf("look at the container's namespaces: %w", err)
		}
		list = append(list, criu.Namespace{Kind: kind, Inode: st.Ino})
	}
	return list, nil
}

// mountPoints are the mounts of a process's namespace by their ids (proc_pid_mountinfo(5)).
func mountPoints(pid int) (map[uint64]string, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, fmt.Errorf("list the container's mounts: %w", err)
	}
	defer file.Close()
	points := make(map[uint64]string)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		id, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("list the container's mounts: %w", err)
		}
		points[id] = unescape.Replace(fields[4])
	}
	return points, nil
}

// unescape undoes what mountinfo does to white space and backslashes.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// mountPointOf is the mount at a path of the container's, wherever its symlinks lead; empty for none.
func mountPointOf(root int, path string, points map[uint64]string) (string, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(root, path, &how)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find the mount on %s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return "", fmt.Errorf("find the mount on %s: %w", path, err)
	}
	return points[st.Mnt_id], nil
}
