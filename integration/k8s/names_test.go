//go:build k8s

package k8s

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	core "k8s.io/api/core/v1"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// nameServer is the address of the service that pods ask for names.
const nameServer = "10.96.0.10"

// coreDNS is CoreDNS as clusters have it, confined as its own manifest says. Its program is a file of the host's.
const coreDNS = `apiVersion: v1
kind: ConfigMap
metadata: {name: coredns, namespace: kube-system}
data:
  Corefile: |
    .:53 {
        errors
        health
        ready
        kubernetes cluster.local in-addr.arpa ip6.arpa {
            ttl 1
        }
        cache 1
    }
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: %s
  selector: {k8s-app: kube-dns}
  ports:
    - {name: dns, port: 53, protocol: UDP}
    - {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: coredns, namespace: kube-system}
spec:
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      runtimeClassName: pvelxc
      dnsPolicy: Default
      containers:
        - name: coredns
          image: busybox:1.37
          command: [/coredns, -conf, /etc/coredns/Corefile]
          volumeMounts:
            - {name: config, mountPath: /etc/coredns, readOnly: true}
            - {name: program, mountPath: /coredns, readOnly: true}
          readinessProbe: {httpGet: {path: /ready, port: 8181}, periodSeconds: 1}
          livenessProbe: {httpGet: {path: /health, port: 8080}, initialDelaySeconds: 60}
          resources: {requests: {memory: 32Mi}, limits: {memory: 170Mi}}
          securityContext:
            allowPrivilegeEscalation: false
            capabilities: {add: [NET_BIND_SERVICE], drop: [ALL]}
            readOnlyRootFilesystem: true
      volumes:
        - {name: config, configMap: {name: coredns}}
        - {name: program, hostPath: {path: %s, type: File}}
`

func (c *cluster) startNameServer() {
	c.t.Helper()
	c.apply(fmt.Sprintf(coreDNS, nameServer, program("coredns")))
	c.eventually("the name server", func() error {
		return c.says("/apis/apps/v1/namespaces/kube-system/deployments/coredns", `"availableReplicas":1`)
	})
}

// idle is a pod to ask from.
const idle = `apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: %[2]s, labels: {app: %[1]s}}
spec:
  runtimeClassName: pvelxc
  terminationGracePeriodSeconds: 1
  containers:
    - {name: c, image: busybox:1.37, command: [sleep, "100000"]}
`

const volume = `apiVersion: v1
kind: PersistentVolume
metadata: {name: v%d}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  local: {path: %s}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node]}]
`

// stableNames: a pod of a StatefulSet has its name and its volume for good, whatever its address.
func (c *cluster) stableNames() {
	for i := range 3 {
		path := filepath.Join(harness.Work, "volumes", fmt.Sprint(i))
		if err := os.MkdirAll(path, 0o755); err != nil {
			c.t.Fatal(err)
		}
		c.apply(fmt.Sprintf(volume, i, path))
	}
	c.apply(fmt.Sprintf(idle, "client", "default"))
	c.sample("statefulset.yaml")
	c.eventually("three replicas", func() error { return c.says(paths["StatefulSet"]+"/web", `"readyReplicas":3`) })
	c.until("client", "ready", ready)
	for _, name := range []string{"web-0", "web-1", "web-2"} {
		c.answers("client", name+".web:8080", name)
	}
	c.eventually("the addresses behind the service's name", func() error {
		found, err := c.in("client", "nslookup -type=a web.default.svc.cluster.local")
		for i := range 3 {
			if ip := c.until(fmt.Sprintf("web-%d", i), "ready", ready).Status.PodIP; err == nil && !strings.Contains(found, ip) {
				err = fmt.Errorf("no %s in %q", ip, found)
			}
		}
		return err
	})

	before := c.until("web-1", "ready", ready)
	if _, err := c.in("web-1", "echo kept > /data/kept"); err != nil {
		c.t.Fatal(err)
	}
	c.must("delete", "pod/web-1", "--wait=false")
	c.until("web-1", "another one", func(p *core.Pod) bool {
		return ready(p) && p.UID != before.UID && p.Status.PodIP != before.Status.PodIP
	})
	c.answers("client", "web-1.web:8080", "web-1")
	c.answers("client", "web-1.web:8080/kept", "kept")
	c.remove("statefulset/web")
	c.must("delete", "pvc", "--all", "--timeout="+patience.String())
	c.must("delete", "pv/v0", "pv/v1", "pv/v2", "service/web", "pod/client", "--timeout="+patience.String())
}
