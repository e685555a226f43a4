# Debian packages and releases. Everything is made from the commit that is checked out.
PACKAGE := dist/package

.PHONY: packages release release-check test-packages
packages: ## build the Debian packages for amd64 and arm64 into dist/out (ARCH=amd64 for one)
	@dist/dev/deps.sh package
	@$(PACKAGE)/build.sh $(or $(ARCH),amd64 arm64)

release: packages ## packages, source archive, SBOM and checksums in dist/out; the same commit gives the same bytes
	@$(PACKAGE)/release.sh

release-check: packages ## build a release twice, in two clones, and compare the bytes
	@$(PACKAGE)/release-check.sh

test-packages: packages ## install, upgrade, remove and purge the package in a fresh Debian; needs root
	@$(PACKAGE)/test.sh
