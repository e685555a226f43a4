//go:build k8s

package k8s

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	core "k8s.io/api/core/v1"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/node"
)

// registered waits until the conf of the container of a pod that has its text in the note has these values.
func (k *kubelet) registered(text string, want map[string]string) (vmid string) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), patience)
	defer cancel()
	if err := daemon.Poll(ctx, func() error {
		found, conf, err := node.Registered(text)
		if err != nil {
			return err
		}
		for key, value := range want {
			if conf.Keys[key] != value {
				return fmt.Errorf("%s: %s is %q, want %q", found, key, conf.Keys[key], value)
			}
		}
		vmid = found
		return nil
	}); err != nil {
		k.t.Fatalf("conf of %s: %v", text, err)
	}
	return vmid
}

// stoppedInProxmox: what Stop and Shutdown of Proxmox VE's UI end, the kubelet starts again, under another VMID.
func stoppedInProxmox(t *testing.T, k *kubelet) {
	k.t = t
	k.put("clicked", "terminationGracePeriodSeconds: 1\ncontainers:\n- {name: c, "+busybox+", command: [sh, -c, \"trap 'exit 7' TERM; while :; do sleep 1000 & wait $!; done\"], resources: {limits: {memory: 64Mi}}}\n")
	pod := k.until("clicked", "ready", ready)
	for i, click := range []struct {
		args []string
		code int32
	}{{[]string{"--kill"}, 137}, {[]string{"--timeout", "60"}, 7}} {
		id := status(pod, "c").ContainerID[len("containerd://"):]
		vmid := k.registered(id, map[string]string{"hostname": "clicked-node", "memory": "64", "lock": ""})
		if out, err := exec.Command("lxc-stop", append([]string{"-n", vmid}, click.args...)...).CombinedOutput(); err != nil {
			t.Fatalf("lxc-stop: %v: %s", err, out)
		}
		pod = k.until("clicked", "started again", func(p *core.Pod) bool {
			return ready(p) && status(p, "c").RestartCount == int32(i)+1 && status(p, "c").State.Running != nil
		})
		if s := status(pod, "c").LastTerminationState.Terminated; s == nil || s.ExitCode != click.code {
			t.Errorf("after %q it last ended as %v, want %d", click.args, s, click.code)
		}
		next := k.registered(status(pod, "c").ContainerID[len("containerd://"):], map[string]string{"hostname": "clicked-node", "lock": ""})
		if next == vmid {
			t.Errorf("it has its VMID %s again", vmid)
		}
	}
	k.gone("clicked")
	if vmid, _, err := node.Registered("clicked-node"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the pod: conf %s, %v", vmid, err)
	}
}
