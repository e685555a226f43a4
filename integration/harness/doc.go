// Package harness runs tests of a containerd runtime against the built binaries: a real containerd,
// real images, real containers.
//
// A test package hands its TestMain to [Main], which re-executes the test binary inside a sandbox of
// its own mount, PID, network, UTS and IPC namespaces. So a test may break whatever it likes: the
// machine's /run, its network, its host name and its mount table are out of reach, every process
// dies with the test binary, and whatever is left over inside is by definition a leak:
//
//	go test ── host stage: makes the work directory, starts the sandbox, removes both
//	             └─ init stage: PID 1 of the sandbox, mounts, reaps orphans
//	                  └─ test stage: m.Run, with one containerd for all tests
//
// Control groups are the one thing shared with the machine. Their names carry [Token].
//
// [Each] runs a test once for every runtime under test; runc is the reference: an assertion that
// fails there is wrong. After each of these subtests a [Census] must find nothing left behind.
package harness
