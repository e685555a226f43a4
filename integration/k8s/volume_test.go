//go:build k8s

package k8s

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pvelxc/pvelxc/integration/harness"
)

const volumes = `apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {key: one}
---
apiVersion: v1
kind: Secret
metadata: {name: secret}
stringData: {word: hush}
---
apiVersion: v1
kind: Pod
metadata: {name: volumes, labels: {of: test}}
spec:
  runtimeClassName: pvelxc
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}
  containers:
    - name: c
      image: busybox:1.37
      command: [sleep, "100000"]
      env:
        - {name: WORD, valueFrom: {secretKeyRef: {name: secret, key: word}}}
      volumeMounts:
        - {name: all, mountPath: /all, readOnly: true}
        - {name: memory, mountPath: /memory}
        - {name: disk, mountPath: /disk}
        - {name: disk, mountPath: /inner, subPath: inner}
        - {name: host, mountPath: /host, readOnly: true, recursiveReadOnly: IfPossible}
      resources: {limits: {memory: 32Mi, ephemeral-storage: 64Mi}}
  volumes:
    - name: all
      projected:
        sources:
          - serviceAccountToken: {path: token, expirationSeconds: 3600, audience: test}
          - configMap: {name: settings}
          - secret: {name: secret}
          - downwardAPI:
              items:
                - {path: labels, fieldRef: {fieldPath: metadata.labels}}
                - {path: limit, resourceFieldRef: {containerName: c, resource: limits.memory}}
    - {name: memory, emptyDir: {medium: Memory, sizeLimit: 8Mi}}
    - {name: disk, emptyDir: {}}
    - {name: host, hostPath: {path: %s, type: Directory}}
`

func (c *cluster) volumes() {
	dir := filepath.Join(harness.Work, "host-volume")
	if err := errors.Join(os.MkdirAll(dir, 0o777), os.Chmod(dir, 0o777), os.WriteFile(filepath.Join(dir, "file"), []byte("of the host"), 0o644)); err != nil {
		c.t.Fatal(err)
	}
	c.apply(fmt.Sprintf(volumes, dir))
	c.until("volumes", "ready", ready)
	for _, check := range []struct{ script, want string }{
		{"cat /all/key /all/word /all/labels", `onehushof="test"`},
		{"cat /all/limit", fmt.Sprint(32 << 20)},
		{"echo $WORD", "hush"},
		{"cut -d. -f3 /all/token | wc -w", "1"},
		{"touch /disk/mine /inner/within && stat -c %u:%g /disk/mine && ls /disk/inner", "1000:2000\nwithin"},
		{"df -k /memory | tail -n 1 | awk '{print $2}'", "8192"},
		{"dd if=/dev/zero of=/memory/x bs=1M count=9 2>/dev/null || echo full", "full"},
		{"cat /host/file && ! touch /host/mine 2>/dev/null && ! touch /all/mine 2>/dev/null && echo kept", "of the hostkept"},
	} {
		if got, err := c.in("volumes", check.script); err != nil || got != check.want {
			c.t.Errorf("%q prints %q, want %q: %v", check.script, got, check.want, err)
		}
	}
	c.must("patch", "configmap/settings", "--patch", `{"data":{"key":"two"}}`)
	c.eventually("the changed setting", func() error {
		got, err := c.in("volumes", "cat /all/key")
		if err == nil && got != "two" {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
	c.must("delete", "pod/volumes", "configmap/settings", "secret/secret")
}
