#!/bin/bash
# The shim's cgroups under systemd: its scopes, and that everything else works beside systemd's own tree.
# limit: 600 s
# ci
exec "$VM_GO/shim/cgroup/cgroup.test" -test.v -test.timeout 9m
