//go:build k8s

package k8s

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"

	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/node"
)

const busybox = "image: pvelxc.test/busybox:latest, imagePullPolicy: Never"

// each runs a test on a node whose default runtime is ours, once with either sandbox.
func each(t *testing.T, test func(t *testing.T, k *kubelet)) {
	t.Helper()
	for _, r := range []harness.Runtime{harness.Pvelxc, node.ShimSandboxes} {
		t.Run(r.Name, func(t *testing.T) { test(t, start(t, settings{config: roomy, fallback: r})) })
	}
}

// TestStaticPods: what a kubelet does with pods.
func TestStaticPods(t *testing.T) { each(t, testStaticPods) }

func testStaticPods(t *testing.T, k *kubelet) {
	t.Run("init containers, a sidecar, volumes and probes", func(t *testing.T) {
		k.t = t
		k.put("full", `terminationGracePeriodSeconds: 5
initContainers:
- {name: first, `+busybox+`, command: [sh, -c, "echo made > /shared/first"], volumeMounts: [{name: shared, mountPath: /shared}]}
- {name: sidecar, `+busybox+`, restartPolicy: Always, command: [sh, -c, "cat /shared/first && touch /shared/sidecar && exec sleep 100000"], volumeMounts: [{name: shared, mountPath: /shared}],
   startupProbe: {exec: {command: [test, -e, /shared/sidecar]}, periodSeconds: 1}}
containers:
- {name: web, `+busybox+`, command: [sh, -c, "mkdir /www; cp /shared/first /www/index.html; exec httpd -f -p 8080 -h /www"],
   volumeMounts: [{name: shared, mountPath: /shared}, {name: info, mountPath: /info}],
   readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}, livenessProbe: {exec: {command: [test, -e, /shared/sidecar]}, periodSeconds: 1},
   resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {memory: 64Mi}},
   securityContext: {runAsUser: 0, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}}
volumes:
- {name: shared, emptyDir: {}}
- {name: info, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
`)
		pod := k.until("full", "ready", ready)
		if got := k.exec("full", "web", "cat%20/info/name"); got != "full-node" {
			t.Errorf("the volume of the downward API says %q", got)
		}
		if s := status(pod, "first"); s.State.Terminated == nil || s.State.Terminated.ExitCode != 0 {
			t.Errorf("the init container is %v", s.State)
		}
		if got := k.exec("full", "web", "wget%20-q%20-O%20-%20http://127.0.0.1:8080/"); got != "made" {
			t.Errorf("it serves %q", got)
		}
		logs, err := k.call("GET", "/containerLogs/default/full-node/sidecar")
		if err != nil || string(logs) != "made\n" {
			t.Errorf("the sidecar's log has %q, %v", logs, err)
		}
		k.exec("full", "sidecar", "rm%20/shared/sidecar") // the liveness probe fails
		k.until("full", "restarted", func(p *core.Pod) bool { return status(p, "web").RestartCount > 0 })
		k.gone("full")
	})
	t.Run("back-off and an OOM kill", func(t *testing.T) {
		k.t = t
		k.put("crash", "containers:\n- {name: c, "+busybox+", command: [sh, -c, 'exit 3']}\n")
		k.put("hog", "restartPolicy: Never\ncontainers:\n- {name: c, "+busybox+", command: [tail, /dev/zero], resources: {limits: {memory: 32Mi}}}\n")
		pod := k.until("hog", "over", func(p *core.Pod) bool { return p.Status.Phase == core.PodFailed })
		if s := status(pod, "c").State.Terminated; s == nil || s.Reason != "OOMKilled" || s.ExitCode != 137 {
			t.Errorf("the hog ended as %v", s)
		}
		pod = k.until("crash", "backing off", func(p *core.Pod) bool {
			s := status(p, "c")
			return s.RestartCount >= 2 && s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff"
		})
		if s := status(pod, "c").LastTerminationState.Terminated; s == nil || s.ExitCode != 3 {
			t.Errorf("it last ended as %v", s)
		}
		k.gone("crash")
		k.gone("hog")
	})
	t.Run("graceful termination", func(t *testing.T) {
		k.t = t
		dir := filepath.Join(k.dir, "host-path")
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		k.put("graceful", `terminationGracePeriodSeconds: 20
containers:
- {name: c, `+busybox+`, command: [sh, -c, "trap 'echo term >> /host/end; exit 0' TERM; touch /host/up; while :; do sleep 1000 & wait $!; done"],
   lifecycle: {preStop: {exec: {command: [sh, -c, "echo hook >> /host/end"]}}}, volumeMounts: [{name: host, mountPath: /host}],
   readinessProbe: {exec: {command: [test, -e, /host/up]}, periodSeconds: 1}}
volumes:
- {name: host, hostPath: {path: `+dir+`}}
`)
		k.until("graceful", "ready", ready)
		k.gone("graceful")
		got, err := os.ReadFile(filepath.Join(dir, "end"))
		if err != nil || string(got) != "hook\nterm\n" {
			t.Errorf("its end was %q, %v", got, err)
		}
	})
	t.Run("user namespace", func(t *testing.T) {
		k.t = t
		k.put("mapped", `hostUsers: false
terminationGracePeriodSeconds: 1
containers:
- {name: c, `+busybox+`, command: [sh, -c, "touch /shared/mine && exec sleep 100000"], volumeMounts: [{name: shared, mountPath: /shared}]}
volumes:
- {name: shared, emptyDir: {}}
`)
		k.until("mapped", "ready", ready)
		if got := strings.Fields(k.exec("mapped", "c", "cat%20/proc/self/uid_map")); len(got) != 3 || got[0] != "0" || got[1] == "0" || got[2] != "65536" {
			t.Errorf("its map is %v", got)
		}
		if got := k.exec("mapped", "c", "stat%20-c%20%25u%20/shared/mine"); got != "0" {
			t.Errorf("its file belongs to %s", got)
		}
		k.gone("mapped")
	})
	t.Run("stopped in Proxmox VE", func(t *testing.T) { stoppedInProxmox(t, k) })
	k.t = t
}
