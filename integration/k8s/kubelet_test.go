//go:build k8s

// Package k8s runs Kubernetes on containerd: a kubelet with static pods, and
// one with a control plane, all on loopback and in namespaces. It is not part of make test, because
// Kubernetes takes long to build. make test-k8s runs it.
package k8s

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/node"
)

func TestMain(m *testing.M) { harness.Main(m) }

// patience is long: a kubelet looks at its pods once in a second or ten, and backs off.
const patience = 4 * time.Minute

const config = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
port: 10250
healthzPort: 0
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
staticPodPath: %[1]s/manifests
podLogsDir: %[1]s/pod-logs
containerRuntimeEndpoint: unix://%[2]s
cgroupDriver: cgroupfs
cgroupRoot: %[3]s
cgroupsPerQOS: true
failSwapOn: false
failCgroupV1: false
makeIPTablesUtilChains: false
oomScoreAdj: 0
imageGCHighThresholdPercent: 100
fileCheckFrequency: 1s
syncFrequency: 1s
crashLoopBackOff: {maxContainerRestartPeriod: 5s}
featureGates: {KubeletCrashLoopBackOffMax: true}
%[4]s`

// roomy is the configuration of a kubelet that never evicts a pod.
const roomy = `enforceNodeAllocatable: []
evictionHard: {}
`

// kubelet is a running kubelet.
type kubelet struct {
	*node.Node
	t    *testing.T
	dir  string
	args []string
	cmd  *exec.Cmd
	log  *harness.Buffer
}

// programs are Kubernetes' and what belongs to it: the directory of each.
var programs = map[string]string{
	"kubelet": "kubernetes-1.37.2", "kube-apiserver": "kubernetes-1.37.2", "kube-controller-manager": "kubernetes-1.37.2",
	"kube-scheduler": "kubernetes-1.37.2", "kube-proxy": "kubernetes-tools-1.37.2", "kubectl": "kubernetes-tools-1.37.2",
	"etcd": "etcd", "coredns": "coredns-1.15.0", "policy": "policy-2.1.0",
}

// program is the path of one of them.
func program(name string) string { return filepath.Join(daemon.Peers(), programs[name], name) }

// settings of a kubelet: lines of its configuration, arguments, and the runtime of pods that name none.
type settings struct {
	config   string
	args     []string
	fallback harness.Runtime
}

// start runs a kubelet beside a containerd.
func start(t *testing.T, s settings) *kubelet {
	t.Helper()
	harness.NeedsRoot(t)
	work, err := os.MkdirTemp(harness.Work, "kubelet-")
	if err == nil {
		err = os.Chmod(work, 0o711) // user namespaces must get through
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(work, "kubelet")
	for _, name := range []string{"manifests", "pod-logs", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	n, err := node.Start(t.Context(), filepath.Join(work, "node"), daemon.Containerd2, func(c *daemon.CRI) {
		i := slices.IndexFunc(c.Handlers, func(h daemon.Handler) bool { return h.Name == s.fallback.Name })
		c.Handlers[0], c.Handlers[i] = c.Handlers[i], c.Handlers[0] // the first is the default
	})
	if err != nil {
		t.Fatal(err)
	}
	k := &kubelet{Node: n, t: t, dir: dir}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's log ends with:\n%s\nkubelet's with:\n%s", n.LogTail(15), tail(errorsOf(k.log.String()), 40))
		}
		k.stop()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	root := "/kube-" + harness.Token
	for _, h := range hierarchies() {
		group := filepath.Join(h, root)
		if err := os.MkdirAll(group, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // a new group of cgroup v1 has none
			if data, err := os.ReadFile(filepath.Join(h, file)); err == nil {
				_ = os.WriteFile(filepath.Join(group, file), data, 0)
			}
		}
	}
	path := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(path, fmt.Appendf(nil, config, dir, n.Address, root, s.config), 0o600); err != nil {
		t.Fatal(err)
	}
	k.args = append([]string{
		"--config=" + path, "--root-dir=" + filepath.Join(dir, "root"), "--cert-dir=" + filepath.Join(dir, "pki"), "--hostname-override=node", "--v=2",
	}, s.args...)
	k.run()
	return k
}

// run starts the kubelet's process.
func (k *kubelet) run() {
	k.t.Helper()
	k.log = &harness.Buffer{}
	command := slices.Concat(k.apart(), []string{program("kubelet")}, k.args)
	k.cmd = exec.Command(command[0], command[1:]...)
	k.cmd.Stdout, k.cmd.Stderr = k.log, k.log
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := k.cmd.Start(); err != nil {
		k.t.Fatalf("start the kubelet: %v (hint: make test-k8s)", err)
	}
}

func (k *kubelet) stop() {
	if k.cmd != nil {
		_ = k.cmd.Process.Kill()
		_ = k.cmd.Wait()
		k.cmd = nil
	}
}

// sysctls are those that a kubelet wants to set. They are the machine's, so it finds plain files in their
// place, in a mount namespace of its own: where /proc is covered, there are no new ones for user namespaces.
var sysctls = []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"}

// apart is the command that runs another one in such a namespace. Mounts on a shared mount are seen outside.
func (k *kubelet) apart() []string {
	k.t.Helper()
	script := "mount --make-rprivate /proc"
	for _, name := range sysctls {
		path := filepath.Join("/proc/sys", name)
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		cover := filepath.Join(k.dir, strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(cover, data, 0o600); err != nil {
			k.t.Fatal(err)
		}
		script += " && mount --bind " + cover + " " + path
	}
	return []string{"unshare", "-m", "--propagation", "unchanged", "sh", "-c", script + ` && exec "$@"`, "sh"}
}

func hierarchies() []string {
	if harness.Unified() {
		return []string{"/sys/fs/cgroup"}
	}
	var found []string
	entries, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	for _, e := range entries {
		found = append(found, filepath.Dir(e))
	}
	return found
}

// errorsOf are the lines of a log in klog's format that are errors.
func errorsOf(log string) string {
	var errors strings.Builder
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, "E") {
			errors.WriteString(line)
		}
	}
	return errors.String()
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// manifest is the file of a static pod.
func (k *kubelet) manifest(name string) string {
	return filepath.Join(k.dir, "manifests", name+".yaml")
}

// put makes a static pod of a specification in YAML.
func (k *kubelet) put(name, spec string) {
	k.t.Helper()
	text := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: default, labels: {app: %s}}\nspec:\n", name, name)
	for line := range strings.Lines(spec) {
		text += "  " + line
	}
	temporary := filepath.Join(k.dir, "new")
	if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
	if err := os.Rename(temporary, k.manifest(name)); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { _ = os.Remove(k.manifest(name)) })
}

var client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: time.Minute} //nolint:gosec // its own certificate, on loopback

// call asks the kubelet.
func (k *kubelet) call(method, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(context.Background(), method, "https://127.0.0.1:10250"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, response.Status, data)
	}
	return data, err
}

// get finds a pod; nil when the kubelet has none of the name.
func (k *kubelet) get(name string) (*core.Pod, error) {
	data, err := k.call(http.MethodGet, "/pods")
	if err != nil {
		return nil, err
	}
	var list core.PodList
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&list); err != nil {
		return nil, err
	}
	for i := range list.Items {
		if list.Items[i].Name == name+"-node" {
			return &list.Items[i], nil
		}
	}
	return nil, nil
}

// until waits until a pod is as it should be.
func (k *kubelet) until(name, what string, is func(*core.Pod) bool) *core.Pod {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), patience)
	defer cancel()
	var pod *core.Pod
	err := daemon.Poll(ctx, func() (err error) {
		if pod, err = k.get(name); err != nil {
			return err
		}
		if pod == nil || !is(pod) {
			status, _ := json.Marshal(pod)
			return fmt.Errorf("it is %s", status)
		}
		return nil
	})
	if err != nil {
		k.t.Fatalf("pod %s, %s: %v", name, what, err)
	}
	return pod
}

func ready(p *core.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c core.PodCondition) bool { return c.Type == core.PodReady && c.Status == core.ConditionTrue })
}

// status is that of a container of a pod.
func status(p *core.Pod, name string) core.ContainerStatus {
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if s.Name == name {
			return s
		}
	}
	return core.ContainerStatus{}
}

// exec runs a command in a container, as kubectl exec does.
func (k *kubelet) exec(pod, container, command string) string {
	k.t.Helper()
	out, err := k.call(http.MethodPost, fmt.Sprintf("/run/default/%s-node/%s?cmd=%s", pod, container, command))
	if err != nil {
		k.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// gone waits until nothing of a pod is left.
func (k *kubelet) gone(name string) {
	k.t.Helper()
	if err := os.Remove(k.manifest(name)); err != nil {
		k.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(k.t.Context(), patience)
	defer cancel()
	if err := daemon.Poll(ctx, func() error {
		left, err := k.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{
			Filter: &cri.PodSandboxFilter{LabelSelector: map[string]string{"io.kubernetes.pod.name": name + "-node"}, State: &cri.PodSandboxStateValue{}},
		})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("its sandbox is %s", left.Items[0].State)
		}
		return err
	}); err != nil {
		k.t.Fatalf("end of pod %s: %v", name, err)
	}
}
