//go:build k8s

package k8s

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/image"
	"github.com/pvelxc/pvelxc/integration/node"
)

const (
	server = "https://192.168.99.1:6443"
	token  = "of-the-test"
)

// roomFor is how much memory a node gives to its pods: it evicts the greediest when they have used half of it.
const roomFor = 2 << 30

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "` + server + `", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: ` + token + `}}]
contexts: [{name: d, context: {cluster: c, user: u}}]
current-context: d
`

// cluster is a control plane and its one node.
type cluster struct {
	*kubelet
	config string // of its clients
}

// startCluster runs etcd, the API server, the controllers, the scheduler and a kubelet.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	harness.NeedsRoot(t)
	dir := filepath.Join(harness.Work, "cluster")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "-ec", "ip link add uplink type bridge; ip addr add 192.168.99.1/24 dev uplink; ip link set uplink up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "uplink").Run() })
	key := filepath.Join(dir, "accounts.key")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	write("accounts.key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)})))
	tokens := write("tokens.csv", token+`,tester,1,"system:masters"`+"\n")
	config := write("kubeconfig", kubeconfig)
	run(t, dir, filepath.Join(daemon.Peers(), "etcd", "etcd"), "--data-dir="+filepath.Join(dir, "etcd"), "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=default=http://127.0.0.1:2380", "--unsafe-no-fsync")
	pki := filepath.Join(dir, "pki")
	run(t, dir, program("kube-apiserver"), "--etcd-servers=http://127.0.0.1:2379", "--service-cluster-ip-range=10.96.0.0/16", "--cert-dir="+pki, "--token-auth-file="+tokens,
		"--authorization-mode=AlwaysAllow", "--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+key,
		"--service-account-signing-key-file="+key, "--advertise-address=192.168.99.1", "--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP")
	c := &cluster{&kubelet{t: t}, config}
	c.eventually("the API server", func() error { _, err := c.api(http.MethodGet, "/readyz", "", nil); return err })
	run(t, dir, program("kube-controller-manager"), "--kubeconfig="+config, "--service-account-private-key-file="+key, "--root-ca-file="+filepath.Join(pki, "apiserver.crt"),
		"--use-service-account-credentials=false", "--leader-elect=false", "--bind-address=127.0.0.1", "--cert-dir="+pki)
	run(t, dir, program("kube-scheduler"), "--kubeconfig="+config, "--leader-elect=false", "--bind-address=127.0.0.1", "--cert-dir="+pki)
	// A bridge's frames pass the rules of iptables, as on every node whose services and policies are made of them.
	for path, value := range map[string]string{"net/bridge/bridge-nf-call-iptables": "1", "net/ipv4/ip_forward": "1"} {
		if err := os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	c.kubelet = start(t, settings{crowded(t), []string{"--kubeconfig=" + config, "--node-ip=192.168.99.1"}, harness.Runc})
	c.eventually("the node", func() error {
		return c.says("/api/v1/nodes/node", `"type":"Ready","status":"True"`, `"reason":"KubeletReady"`)
	})
	c.eventually("the default service account", func() error { return c.says("/api/v1/namespaces/default/serviceaccounts/default", `"name":"default"`) })
	run(t, dir, program("kube-proxy"), "--kubeconfig="+config, "--hostname-override=node", "--proxy-mode=iptables", "--conntrack-max-per-core=0",
		"--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0", "--metrics-bind-address=127.0.0.1:10249", "--healthz-bind-address=127.0.0.1:10256")
	run(t, dir, program("policy"), config, "node")
	c.alias("docker.io/library/busybox:1.37")
	return c
}

// crowded is the configuration of a kubelet that has little memory for pods, on a machine of any size, and that
// tells pods the name server's address.
func crowded(t *testing.T) string {
	t.Helper()
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	reserved := info.Totalram*uint64(info.Unit) - roomFor
	return fmt.Sprintf(`enforceNodeAllocatable: [pods]
kubeReserved: {memory: "%d"}
evictionHard: {memory.available: "%d"}
evictionPressureTransitionPeriod: 1s
clusterDNS: [%s]
clusterDomain: cluster.local
`, reserved, roomFor/2, nameServer)
}

// alias gives the test image a name that samples use.
func (c *cluster) alias(name string) {
	c.t.Helper()
	ctx := namespaces.WithNamespace(c.t.Context(), node.Namespace)
	img, err := c.Client.ImageService().Get(ctx, image.Busybox)
	if err == nil {
		img.Name = name
		_, err = c.Client.ImageService().Create(ctx, img)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.eventually("the image "+name, func() error {
		status, err := c.Images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
		if err == nil && status.Image == nil {
			err = fmt.Errorf("CRI does not know it")
		}
		return err
	})
}

// run runs a program until the end of the test.
func run(t *testing.T, dir string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, filepath.Base(args[0])+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (hint: make test-k8s)", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s's log ends with:\n%s", filepath.Base(args[0]), tail(string(text), 10))
		}
	})
}

func (c *cluster) eventually(what string, try func() error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	if err := daemon.Poll(ctx, try); err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
}

// api asks the API server.
func (c *cluster) api(method, path, kind string, body []byte) (string, error) {
	request, err := http.NewRequestWithContext(context.Background(), method, server+path, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= http.StatusMultipleChoices {
		err = fmt.Errorf("%s %s: %s: %s", method, path, response.Status, data)
	}
	return string(data), err
}

// says fails when an object does not have all these texts in its JSON.
func (c *cluster) says(path string, texts ...string) error {
	data, err := c.api(http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	// Without white space, and without the times that stand between a type and its status.
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(data)); err != nil {
		return err
	}
	for _, text := range texts {
		if !strings.Contains(compact.String(), text) {
			return fmt.Errorf("%s has no %s: %s", path, text, compact.String())
		}
	}
	return nil
}

// paths of the kinds that are asked about.
var paths = map[string]string{
	"Pod":         "/api/v1/namespaces/default/pods",
	"StatefulSet": "/apis/apps/v1/namespaces/default/statefulsets",
	"Deployment":  "/apis/apps/v1/namespaces/default/deployments",
	"DaemonSet":   "/apis/apps/v1/namespaces/default/daemonsets",
	"Job":         "/apis/batch/v1/namespaces/default/jobs",
}

// kubectl runs kubectl, and returns what it prints.
func (c *cluster) kubectl(args ...string) (string, error) {
	return c.kubectlWith("", args...)
}

func (c *cluster) kubectlWith(input string, args ...string) (string, error) {
	cmd := c.kubectlCommand(args...)
	cmd.Stdin = strings.NewReader(input)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), err
}

func (c *cluster) kubectlCommand(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(c.t.Context(), program("kubectl"), append([]string{"--kubeconfig=" + c.config, "--cache-dir=" + filepath.Join(c.dir, "kubectl")}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// must runs kubectl, which must succeed.
func (c *cluster) must(args ...string) string {
	c.t.Helper()
	out, err := c.kubectl(args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// apply makes the objects of a manifest.
func (c *cluster) apply(manifest string) {
	c.t.Helper()
	if _, err := c.kubectlWith(manifest, "apply", "-f", "-"); err != nil {
		c.t.Fatal(err)
	}
}

// sample applies a file of dist/k8s, as it is.
func (c *cluster) sample(name string) {
	c.t.Helper()
	c.must("apply", "-f", filepath.Join("../../dist/k8s", name))
}

// object reads one from the API server.
func (c *cluster) object(path string, into any) error {
	data, err := c.api(http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(data), into)
}

// until waits until a pod is as it should be.
func (c *cluster) until(name, what string, is func(*core.Pod) bool) *core.Pod {
	c.t.Helper()
	var pod core.Pod
	c.eventually("pod "+name+", "+what, func() error {
		pod = core.Pod{}
		err := c.object(paths["Pod"]+"/"+name, &pod)
		if err == nil && !is(&pod) {
			status, _ := json.Marshal(pod.Status)
			err = fmt.Errorf("it is %s", status)
		}
		return err
	})
	return &pod
}

// in runs a shell script in a pod, through kubectl exec.
func (c *cluster) in(pod, script string) (string, error) {
	return c.kubectl("exec", pod, "--", "sh", "-c", script)
}

// answers waits until a pod gets a page from an address.
func (c *cluster) answers(pod, address, want string) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%s from %s", address, pod), func() error {
		got, err := c.in(pod, fetch(address))
		if err == nil && got != want {
			err = fmt.Errorf("it answers %q, want %q", got, want)
		}
		return err
	})
}

// fetch is a script that prints a page, or fails within seconds.
func fetch(address string) string { return "timeout 3 wget -q -O - http://" + address }

// remove deletes an object, such as "pod/hello", and waits until it is gone with all that it owns.
func (c *cluster) remove(name string) {
	c.t.Helper()
	c.must("delete", name, "--cascade=foreground", "--timeout="+patience.String())
}
