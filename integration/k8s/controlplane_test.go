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

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
)

const (
	server = "https://192.168.99.1:6443"
	token  = "of-the-test"
)

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
		"--service-account-signing-key-file="+key, "--advertise-address=192.168.99.1", "--allow-privileged=true")
	c := &cluster{&kubelet{t: t}}
	c.eventually("the API server", func() error { _, err := c.api(http.MethodGet, "/readyz", "", nil); return err })
	run(t, dir, program("kube-controller-manager"), "--kubeconfig="+config, "--service-account-private-key-file="+key, "--root-ca-file="+filepath.Join(pki, "apiserver.crt"),
		"--use-service-account-credentials=false", "--leader-elect=false", "--bind-address=127.0.0.1", "--cert-dir="+pki)
	run(t, dir, program("kube-scheduler"), "--kubeconfig="+config, "--leader-elect=false", "--bind-address=127.0.0.1", "--cert-dir="+pki)
	c.kubelet = start(t, "", "--kubeconfig="+config, "--node-ip=192.168.99.1")
	c.eventually("the node", func() error {
		return c.says("/api/v1/nodes/node", `"type":"Ready","status":"True"`, `"reason":"KubeletReady"`)
	})
	c.eventually("the default service account", func() error { return c.says("/api/v1/namespaces/default/serviceaccounts/default", `"name":"default"`) })
	return c
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

// paths of the kinds that are applied.
var paths = map[string]string{
	"RuntimeClass":     "/apis/node.k8s.io/v1/runtimeclasses",
	"Pod":              "/api/v1/namespaces/default/pods",
	"Service":          "/api/v1/namespaces/default/services",
	"PersistentVolume": "/api/v1/persistentvolumes",
	"StatefulSet":      "/apis/apps/v1/namespaces/default/statefulsets",
	"Deployment":       "/apis/apps/v1/namespaces/default/deployments",
	"DaemonSet":        "/apis/apps/v1/namespaces/default/daemonsets",
	"Job":              "/apis/batch/v1/namespaces/default/jobs",
}

// apply creates the objects of a manifest, with the image that there is.
func (c *cluster) apply(manifest string) {
	c.t.Helper()
	manifest = strings.ReplaceAll(manifest, "image: busybox:1.37", "image: pvelxc.test/busybox:latest\n          imagePullPolicy: Never")
	for object := range strings.SplitSeq(manifest, "\n---\n") {
		kind := ""
		for line := range strings.Lines(object) {
			if rest, ok := strings.CutPrefix(line, "kind: "); ok {
				kind = strings.TrimSpace(rest)
			}
		}
		if _, err := c.api(http.MethodPost, paths[kind], "application/yaml", []byte(object)); err != nil {
			c.t.Fatal(err)
		}
	}
}

// sample applies a file of dist/k8s.
func (c *cluster) sample(name string) {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join("../../dist/k8s", name))
	if err != nil {
		c.t.Fatal(err)
	}
	manifest := string(text)
	if name == "pod.yaml" { // its image is less deep
		manifest = strings.ReplaceAll(manifest, "image: busybox:1.37", "image: pvelxc.test/busybox:latest\n      imagePullPolicy: Never")
	}
	c.apply(manifest)
}

func (c *cluster) delete(path string) {
	c.t.Helper()
	if _, err := c.api(http.MethodDelete, path+"?propagationPolicy=Foreground", "", nil); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("deletion of "+path, func() error {
		_, err := c.api(http.MethodGet, path, "", nil)
		if err == nil {
			return fmt.Errorf("it is there")
		}
		if strings.Contains(err.Error(), "404") {
			return nil
		}
		return err
	})
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
          command: [sh, -c, "test -s /var/run/secrets/kubernetes.io/serviceaccount/token"]
`

const volume = `apiVersion: v1
kind: PersistentVolume
metadata: {name: v%d}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  hostPath: {path: %s, type: DirectoryOrCreate}
`

// TestCluster: the workloads of a cluster, with the samples of dist/k8s.
func TestCluster(t *testing.T) {
	c := startCluster(t)
	c.sample("runtimeclass.yaml")
	t.Run("a Deployment and a DaemonSet", func(t *testing.T) {
		c.t = t
		c.apply(strings.Replace(fmt.Sprintf(deployment, "Deployment"), "spec:\n", "spec:\n  replicas: 3\n", 1))
		c.eventually("three replicas", func() error { return c.says(paths["Deployment"]+"/several", `"availableReplicas":3`) })
		c.delete(paths["Deployment"] + "/several")
		c.apply(fmt.Sprintf(deployment, "DaemonSet"))
		c.eventually("one on the node", func() error { return c.says(paths["DaemonSet"]+"/several", `"numberReady":1`) })
		c.delete(paths["DaemonSet"] + "/several")
	})
	t.Run("a Job", func(t *testing.T) {
		c.t = t
		c.apply(job)
		c.eventually("four completions", func() error { return c.says(paths["Job"]+"/once", `"succeeded":4`) })
		c.delete(paths["Job"] + "/once")
	})
	t.Run("a StatefulSet with volumes", func(t *testing.T) {
		c.t = t
		for i := range 3 {
			c.apply(fmt.Sprintf(volume, i, filepath.Join(harness.Work, "volumes", fmt.Sprint(i))))
		}
		c.sample("statefulset.yaml")
		c.eventually("three replicas", func() error { return c.says(paths["StatefulSet"]+"/web", `"readyReplicas":3`) })
		c.eventually("their names", func() error {
			return c.says("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", `"hostname":"web-0"`, `"hostname":"web-1"`, `"hostname":"web-2"`)
		})
		c.delete(paths["StatefulSet"] + "/web")
	})
	t.Run("the sample pod, resized in place, with an ephemeral container", func(t *testing.T) {
		c.t = t
		c.sample("pod.yaml")
		hello := paths["Pod"] + "/hello"
		c.eventually("the pod", func() error { return c.says(hello, `"ready":true`) })
		if _, err := c.api(http.MethodPatch, hello+"/resize", "application/strategic-merge-patch+json",
			[]byte(`{"spec":{"containers":[{"name":"web","resources":{"limits":{"memory":"96Mi","cpu":"500m"},"requests":{"memory":"96Mi","cpu":"500m"}}}]}}`)); err != nil {
			t.Fatal(err)
		}
		c.eventually("the new size", func() error {
			return c.says(hello, `"allocatedResources":{"cpu":"500m","memory":"96Mi"},"resources":{"limits":{"cpu":"500m","memory":"96Mi"}`, `"restartCount":0`)
		})
		if _, err := c.api(http.MethodPatch, hello+"/ephemeralcontainers", "application/strategic-merge-patch+json",
			[]byte(`{"spec":{"ephemeralContainers":[{"name":"debug","image":"pvelxc.test/busybox:latest","imagePullPolicy":"Never","targetContainerName":"web","command":["sh","-c","ps | grep -q httpd && sleep 100000"]}]}}`)); err != nil {
			t.Fatal(err)
		}
		c.eventually("the ephemeral container", func() error {
			return c.says(hello, `"ephemeralContainerStatuses":[{"name":"debug","state":{"running":`)
		})
		c.delete(hello)
	})
	c.t = t
}
