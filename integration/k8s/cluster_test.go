//go:build k8s

package k8s

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
)

// TestCluster: the workloads of a cluster, with the samples of dist/k8s.
func TestCluster(t *testing.T) {
	c := startCluster(t)
	c.sample("runtimeclass.yaml")
	c.startNameServer()
	for _, test := range []struct {
		name string
		run  func(*cluster)
	}{
		{"a pod of each runtime", (*cluster).beside},
		{"a Deployment and a DaemonSet", (*cluster).replicas},
		{"a Job", (*cluster).job},
		{"a StatefulSet with names and volumes", (*cluster).stableNames},
		{"the sample pod, resized in place, with an ephemeral container", (*cluster).resize},
		{"kubectl port-forward, exec, logs and a port of the host", (*cluster).reach},
		{"volumes", (*cluster).volumes},
		{"NetworkPolicy", (*cluster).policies},
		{"eviction on memory", (*cluster).eviction}, // the last: the node is short of memory for a while after it
	} {
		t.Run(test.name, func(t *testing.T) {
			c.t = t
			test.run(c)
		})
		c.t = t
	}
}

// beside: a pod that names our RuntimeClass is made of LXC containers, one that names none is runc's, and they talk.
func (c *cluster) beside() {
	plain := strings.Replace(fmt.Sprintf(idle, "plain", "default"), "  runtimeClassName: pvelxc\n", "", 1)
	c.apply(plain)
	c.sample("pod.yaml")
	pods := map[string]*core.Pod{"plain": c.until("plain", "ready", ready), "hello": c.until("hello", "ready", ready)}
	for name, program := range map[string]string{"plain": "containerd-shim-runc-v2", "hello": "pvelxc-monitor"} {
		id := strings.TrimPrefix(pods[name].Status.ContainerStatuses[0].ContainerID, "containerd://")
		pid, err := c.PidOf(c.t.Context(), id)
		if err != nil {
			c.t.Fatal(err)
		}
		if !slices.Contains(harness.Programs(program), harness.Parent(c.t, pid)) {
			c.t.Errorf("pod %s is not the child of a %s", name, program)
		}
	}
	c.answers("plain", pods["hello"].Status.PodIP+":8080", "hello")
	list := exec.Command(filepath.Join(daemon.Bin(), "pvelxc"), "list", "--address", c.Address)
	list.Env = append(os.Environ(), c.Env...)
	out, err := list.CombinedOutput()
	if list := string(out); err != nil || !strings.Contains(list, "hello") || strings.Contains(list, "plain") {
		c.t.Errorf("pvelxc list prints %q, %v", list, err)
	}
	c.must("delete", "pod/plain", "pod/hello")
}

const deployment = `apiVersion: apps/v1
kind: %s
metadata: {name: several}
spec:
  selector: {matchLabels: {app: several}}
  template:
    metadata: {labels: {app: several}}
    spec:
      runtimeClassName: pvelxc
      terminationGracePeriodSeconds: 1
      containers:
        - name: c
          image: busybox:1.37
          command: [sleep, "100000"]
`

func (c *cluster) replicas() {
	c.apply(strings.Replace(fmt.Sprintf(deployment, "Deployment"), "spec:\n", "spec:\n  replicas: 3\n", 1))
	c.eventually("three replicas", func() error { return c.says(paths["Deployment"]+"/several", `"availableReplicas":3`) })
	c.remove("deployment/several")
	c.apply(fmt.Sprintf(deployment, "DaemonSet"))
	c.eventually("one on the node", func() error { return c.says(paths["DaemonSet"]+"/several", `"numberReady":1`) })
	c.remove("daemonset/several")
}

// job's pods ask the API server, by its name, as themselves.
const job = `apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  completions: 4
  parallelism: 2
  template:
    spec:
      runtimeClassName: pvelxc
      restartPolicy: Never
      containers:
        - name: c
          image: busybox:1.37
          command: [sh, -c, "test -s /var/run/secrets/kubernetes.io/serviceaccount/token && nc -w 5 kubernetes.default 443 </dev/null"]
`

func (c *cluster) job() {
	c.apply(job)
	c.eventually("four completions", func() error { return c.says(paths["Job"]+"/once", `"succeeded":4`) })
	c.remove("job/once")
}

func (c *cluster) resize() {
	c.sample("pod.yaml")
	hello := paths["Pod"] + "/hello"
	before := c.until("hello", "ready", ready)
	if _, err := c.api(http.MethodPatch, hello+"/resize", "application/strategic-merge-patch+json",
		[]byte(`{"spec":{"containers":[{"name":"web","resources":{"limits":{"memory":"96Mi","cpu":"500m"},"requests":{"memory":"96Mi","cpu":"500m"}}}]}}`)); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("the new size", func() error {
		return c.says(hello, `"allocatedResources":{"cpu":"500m","memory":"96Mi"},"resources":{"limits":{"cpu":"500m","memory":"96Mi"}`, `"restartCount":0`)
	})
	const limit = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null"
	c.eventually("the new limit", func() error {
		got, err := c.in("hello", limit+"; :")
		if err == nil && got != fmt.Sprint(96<<20) {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
	c.registered("`default/hello`  \n**container** `web`", map[string]string{"memory": "96", "cpulimit": "0.5", "lock": ""})
	if after := c.until("hello", "ready", ready); status(after, "web").ContainerID != status(before, "web").ContainerID {
		c.t.Error("it is another container")
	}
	c.must("debug", "hello", "--image=busybox:1.37", "--image-pull-policy=Never", "--target=web", "--container=debug", "--profile=general", "--",
		"sh", "-c", "ps | grep -q httpd && sleep 100000")
	c.eventually("the ephemeral container", func() error {
		return c.says(hello, `"ephemeralContainerStatuses":[{"name":"debug","state":{"running":`)
	})
	c.remove("pod/hello")
}

const publishing = `apiVersion: v1
kind: Pod
metadata: {name: published}
spec:
  runtimeClassName: pvelxc
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: busybox:1.37
      command: [sh, -c, "echo begins; mkdir /www && hostname > /www/index.html && httpd -p 127.0.0.1:8081 -h /www && exec httpd -f -p 8080 -h /www"]
      ports: [{containerPort: 8080, hostPort: 18088}]
      readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
`

func (c *cluster) reach() {
	c.apply(publishing)
	c.until("published", "ready", ready)
	for _, address := range []string{"192.168.99.1:18088", "127.0.0.1:18088"} {
		c.eventually("the port of the host at "+address, func() error { return serves(address, "published") })
	}
	// What listens on the pod's own loopback is reached by a forwarded port alone.
	forward := c.kubectlCommand("port-forward", "pod/published", ":8081")
	out, err := forward.StdoutPipe()
	if err == nil {
		err = forward.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() {
		_ = forward.Process.Kill()
		_ = forward.Wait()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		c.t.Fatalf("kubectl port-forward: %v", err)
	}
	address, _, _ := strings.Cut(strings.TrimPrefix(line, "Forwarding from "), " ")
	for range 3 {
		c.eventually("the forwarded port", func() error { return serves(address, "published") })
	}
	if got := c.must("logs", "published"); got != "begins" {
		c.t.Errorf("kubectl logs prints %q", got)
	}
	if got, err := c.kubectl("exec", "published", "--", "sh", "-c", "exit 7"); err == nil || !strings.Contains(err.Error(), "exit code 7") {
		c.t.Errorf("kubectl exec says %q, %v", got, err)
	}
	if got, err := c.kubectlWith("through", "exec", "-i", "published", "--", "cat"); got != "through" {
		c.t.Errorf("kubectl exec -i says %q, %v", got, err)
	}
	c.remove("pod/published")
	if err := serves("192.168.99.1:18088", "published"); err == nil {
		c.t.Error("the port of the host outlives its pod")
	}
}

// serves asks for a page from the node.
func serves(address, want string) error {
	response, err := client.Get("http://" + address + "/")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	line, err := bufio.NewReader(response.Body).ReadString('\n')
	if err == nil && strings.TrimSpace(line) != want {
		err = fmt.Errorf("%s says %q", address, line)
	}
	return err
}

// crowd are a pod that keeps to what it asked for, and one that asked for nothing and takes a gigabyte and a half.
const crowd = `apiVersion: v1
kind: Pod
metadata: {name: modest}
spec:
  runtimeClassName: pvelxc
  terminationGracePeriodSeconds: 1
  containers:
    - {name: c, image: busybox:1.37, command: [sleep, "100000"], resources: {limits: {memory: 32Mi, cpu: 100m}}}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  runtimeClassName: pvelxc
  terminationGracePeriodSeconds: 1
  containers:
    - {name: c, image: busybox:1.37, command: [sh, -c, "dd if=/dev/zero bs=1400M count=1 | sleep 100000"]}
`

func (c *cluster) eviction() {
	c.apply(crowd)
	c.until("modest", "ready", ready)
	greedy := c.until("greedy", "evicted", func(p *core.Pod) bool { return p.Status.Phase == core.PodFailed && p.Status.Reason == "Evicted" })
	if !strings.Contains(greedy.Status.Message, "memory") {
		c.t.Errorf("it was evicted because %q", greedy.Status.Message)
	}
	c.eventually("memory for pods again", func() error {
		return c.says("/api/v1/nodes/node", `"reason":"KubeletHasSufficientMemory"`)
	})
	if modest := c.until("modest", "ready", ready); status(modest, "c").RestartCount != 0 {
		c.t.Errorf("the modest pod is %v", modest.Status)
	}
	c.remove("pod/modest")
	c.remove("pod/greedy")
}
