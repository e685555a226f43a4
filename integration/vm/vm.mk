# The test VM; see README.md beside this file. To be included from the repository's top.
VM := integration/vm

.PHONY: vm test-vm bench-vm clean-vm
vm: ## build the test VM: Debian 13 with real OpenZFS, LXC 6, systemd, AppArmor, cgroup v2
	@$(VM)/build.sh

test-vm: vm build ## run the suites of integration/vm/suites in the VM (SUITES=ci: the quick ones; or names)
	@$(PEERS) containerd runc nerdctl
	@$(if $(filter ci,$(SUITES)),,$(MAKE) --no-print-directory packages ARCH=$$(dpkg --print-architecture))
	@$(VM)/test.sh $(if $(filter ci,$(SUITES)),-c,$(SUITES))

bench-vm: vm build ## measure the snapshotter against containerd's in the VM; writes out/bench-vm.json
	@$(PEERS) containerd snapshotters
	@$(VM)/bench.sh

clean-vm: ## remove the test VM and its caches
	rm -rf $(OUT)/vm $(OUT)/vm-share $(OUT)/vm-results
