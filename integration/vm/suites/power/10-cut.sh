#!/bin/bash
# The power fails while eight snapshotters work on one pool, which holds their databases too: whatever was acknowledged is
# there in the next boot, and nothing is orphaned.
# limit: 400 s
# ci
exec "$VM_GO/snapshotter/snapshotter.test" -test.v -test.timeout 6m -test.run '^TestPowerCut$'
