//go:build k8s

package k8s

import (
	"fmt"
	"slices"
)

// guarded is a web server, under a service's address of its own.
const guarded = `apiVersion: v1
kind: Namespace
metadata: {name: elsewhere}
---
apiVersion: v1
kind: Service
metadata: {name: guarded}
spec:
  selector: {app: guarded}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: guarded, labels: {app: guarded}}
spec:
  runtimeClassName: pvelxc
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: busybox:1.37
      command: [sh, -c, "mkdir /www && hostname > /www/index.html && exec httpd -f -p 8080 -h /www"]
      readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
`

const policy = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends}
spec:
  podSelector: {matchLabels: {app: guarded}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: friend}}}]
      ports: [{port: 8080}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: silent}
spec:
  podSelector: {matchLabels: {app: silent}}
  policyTypes: [Egress]
`

// policies: a server answers to whom a policy names alone, and a pod that may say nothing says nothing.
func (c *cluster) policies() {
	pods := []string{"friend", "stranger", "silent"}
	c.apply(guarded)
	for _, name := range pods {
		c.apply(fmt.Sprintf(idle, name, "default"))
	}
	c.apply(fmt.Sprintf(idle, "friend", "elsewhere")) // of the right name, and of another namespace
	server := c.until("guarded", "ready", ready).Status.PodIP + ":8080"
	for _, name := range pods {
		c.until(name, "ready", ready)
		c.answers(name, "guarded", "guarded")
		c.answers(name, server, "guarded")
	}
	foreign := []string{"exec", "--namespace=elsewhere", "friend", "--", "sh", "-c", fetch("guarded.default")}
	c.eventually("an answer elsewhere", func() error { _, err := c.kubectl(foreign...); return err })

	c.apply(policy)
	c.eventually("the policy", func() error {
		for _, name := range []string{"stranger", "silent"} {
			if got, err := c.in(name, fetch(server)); err == nil {
				return fmt.Errorf("%q answers to %s", got, name)
			}
		}
		return nil
	})
	c.answers("friend", server, "guarded")
	c.answers("friend", "guarded", "guarded")
	for _, name := range []string{"stranger", "silent"} {
		if got, err := c.in(name, fetch("guarded")); err == nil {
			c.t.Errorf("by way of the service %q answers to %s", got, name)
		}
	}
	if got, err := c.kubectl(foreign...); err == nil {
		c.t.Errorf("%q answers to another namespace", got)
	}

	c.must("delete", "networkpolicy", "--all")
	for _, name := range pods {
		c.answers(name, server, "guarded")
	}
	c.must(slices.Concat([]string{"delete", "service/guarded", "pod/guarded", "namespace/elsewhere"}, prefixed("pod/", pods))...)
}

func prefixed(prefix string, words []string) []string {
	var all []string
	for _, w := range words {
		all = append(all, prefix+w)
	}
	return all
}
