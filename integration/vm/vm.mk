# The test VM; see README.md beside this file. To be included from the repository's top.
VM := integration/vm

.PHONY: vm test-vm clean-vm
vm: ## build the test VM: Debian 13 with real OpenZFS, LXC 6, systemd, AppArmor, cgroup v2
	@$(VM)/build.sh

test-vm: vm build ## run the suites of integration/vm/suites in the VM
	@$(PEERS) containerd runc nerdctl
	@$(MAKE) --no-print-directory packages ARCH=$$(dpkg --print-architecture)
	@$(VM)/test.sh

clean-vm: ## remove the test VM and its caches
	rm -rf $(OUT)/vm
