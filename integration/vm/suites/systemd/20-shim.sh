#!/bin/bash
# The shim with the systemd cgroup driver. Without a sandbox around it: systemd knows the machine's processes only.
# limit: 720 s
# ci
. "${VM_TAP%/*}/containerd.sh"
status=0
export PVELXC_TEST_RUNTIMES=pvelxc PVELXC_TEST_PATIENCE=2m PVELXC_TEST_SANDBOX=off
work=/var/tmp/shim
mkdir "$work"
TMPDIR=$work "$VM_GO/integration/machine/machine.test" -test.v -test.timeout 11m -test.run Scope || status=1
rm -rf --one-file-system "$work"
remove_shared_cgroups 2>/dev/null
exit "$status"
