#!/bin/bash
# Pods on pure cgroup v2, with LXC 6 and AppArmor: what a slow machine can afford of the tests of CRI, with both kinds of sandbox.
# limit: 1000 s
status=0
export PVELXC_TEST_RUNTIMES=pvelxc PVELXC_TEST_PATIENCE=3m

work=/var/tmp/pods
mkdir "$work"
finish() {
	find /sys/fs/cgroup/pvelxc.pivot /sys/fs/cgroup/pvelxc.monitor -depth -type d -exec rmdir {} +
	rm -rf --one-file-system "$work"
} 2>/dev/null
trap finish EXIT

TMPDIR=$work "$VM_GO/integration/cri/cri.test" -test.v -test.timeout 15m \
	-test.run "${VM_PODS:-TestShimHoldsNamespaces|TestSharedPIDSandbox|TestNamespaces|TestSysctls|TestUserNamespace|TestStats}" || status=1
exit "$status"
