package nerdctl

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/defaults"

	"github.com/pvelxc/pvelxc/integration/daemon"
)

// masquerade matches the rules that the bridge plugin keeps for the address of every container that
// ever was: nerdctl calls it after the network namespace is gone, when older plugins, among them
// Debian's, remove just the address. The rules of published ports are in chains CNI-DN-….
var masquerade = regexp.MustCompile(`CNI-[0-9a-f]{24}`)

// guard fails the test when it leaves anything of nerdctl's own behind, which the harness does not
// know of: state and volumes, addresses, links, firewall rules, containers and images.
func (n *cli) guard(t *testing.T) {
	t.Helper()
	before := n.inventory(t)
	t.Cleanup(func() {
		// nerdctl in the foreground leaves the directory of its FIFOs, with every runtime.
		_ = os.RemoveAll(defaults.DefaultFIFODir)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		err := daemon.Poll(ctx, func() error {
			extra := slices.DeleteFunc(n.inventory(t), func(thing string) bool { return slices.Contains(before, thing) })
			if len(extra) > 0 {
				return errors.New(strings.Join(extra, "\n"))
			}
			return nil
		})
		if err != nil {
			t.Errorf("nerdctl left behind:\n%v", err)
		}
	})
}

// inventory lists what nerdctl made, each thing by a descriptive name.
func (n *cli) inventory(t *testing.T) []string {
	t.Helper()
	var things []string
	for _, root := range []string{n.path("data"), "/var/lib/cni"} {
		_ = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				things = append(things, "file "+path)
			}
			return nil
		})
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		things = append(things, "link "+link.Name)
	}
	for _, table := range []string{"nat", "filter"} {
		rules, err := exec.Command("iptables", "-w", "-t", table, "-S").Output()
		if err != nil {
			t.Fatalf("list the firewall's %s table: %v (hint: apt-get install iptables)", table, err)
		}
		for _, rule := range strings.Split(string(rules), "\n") {
			if !masquerade.MatchString(rule) {
				things = append(things, "rule "+rule)
			}
		}
	}
	client, ctx := n.env.Daemon.Client, n.env.Context
	containers, err := client.ContainerService().List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range containers {
		things = append(things, "container "+c.ID)
	}
	images, err := client.ImageService().List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range images {
		things = append(things, "image "+i.Name)
	}
	return things
}
