# make help lists what can be done here.

SHELL := /bin/bash
GO ?= go
BIN := $(CURDIR)/bin
OUT := $(CURDIR)/out
PEERS := $(CURDIR)/integration/peers/build.sh
INTEGRATION := $(GO) -C integration

PKG_CONFIG ?= pkg-config
# A release is named by its builder (dist/package/build.sh). It has no build ID, which would be of the paths of its compiler.
VERSION ?=
GOFLAGS_STATIC := -trimpath -ldflags "-s -w$(if $(VERSION), -buildid= -X github.com/pvelxc/pvelxc/internal/version.release=$(VERSION))"
CFLAGS_COMMON := -O2 -g0 -std=gnu11 -Wall -Wextra -Werror -Wformat=2 -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-D_FORTIFY_SOURCE=2 -D_GNU_SOURCE -fstack-protector-strong -fstack-clash-protection -ffunction-sections -fdata-sections
LDFLAGS_COMMON := -Wl,-z,relro,-z,now,-z,noexecstack -Wl,--gc-sections -s

# SANITIZE=1 builds the C programs so that a bad access or undefined behaviour ends them. pvelxc-init is
# static, and runs where no library is: it traps.
ifdef SANITIZE
CFLAGS_INIT := -U_FORTIFY_SOURCE -fsanitize=undefined -fsanitize-undefined-trap-on-error
CFLAGS_MONITOR := -U_FORTIFY_SOURCE -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
endif

INIT_SOURCES := $(wildcard shim/init/*.c)
MONITOR_SOURCES := $(wildcard shim/monitor/*.c)
C_HEADERS := $(wildcard shim/init/*.h shim/monitor/*.h)
GO_COMMANDS := $(filter-out pvelxc-seccomp,$(notdir $(patsubst %/,%,$(dir $(wildcard cmd/*/main.go)))))
# pvelxc-seccomp links libseccomp; everything else in Go is static.
SECCOMP := $(patsubst cmd/%/main.go,%,$(wildcard cmd/pvelxc-seccomp/main.go))
C_PROGRAMS := $(if $(INIT_SOURCES),$(BIN)/pvelxc-init) $(if $(MONITOR_SOURCES),$(BIN)/pvelxc-monitor)

.DEFAULT_GOAL := help
.PHONY: help deps build demo picture test bench bench-cri test-k8s test-pods lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps:
	@dist/dev/deps.sh test

build: ## build the binaries into bin/
	@dist/dev/deps.sh build
	@$(MAKE) --no-print-directory go c

demo: ## run an OCI image as an LXC container on this machine and clean up (IMAGE=ref pulls that image)
	@dist/dev/deps.sh run
	@$(MAKE) --no-print-directory go c
	@$(PEERS) containerd
	@$(INTEGRATION) build -o $(OUT)/demo ./cmd/demo
	@$(OUT)/demo $(if $(IMAGE),-image '$(IMAGE)')

test: deps ## every test: unit, golden, short fuzz, integration against real containerd and LXC
	@$(MAKE) --no-print-directory go c
	@$(PEERS) containerd runc containerd-1.7 nerdctl snapshotters
	@$(PEERS) former || echo "make: a former version could not be built: the tests of upgrades will say so" >&2
	@$(PEERS) criu || echo "make: CRIU could not be built: the tests of checkpoints will say so" >&2
	@integration/test.sh

picture: ## run the demo and draw docs/demo.svg, the picture in the README
	@dist/dev/deps.sh run
	@$(MAKE) --no-print-directory go c
	@$(PEERS) containerd
	@$(INTEGRATION) build -o $(OUT)/ ./cmd/demo ./cmd/picture
	@$(OUT)/picture -o docs/demo.svg -title 'make demo' -hide $(CURDIR) $(OUT)/demo

bench: deps ## measure against runc and crun; writes out/bench.json
	@$(MAKE) --no-print-directory go c
	@$(PEERS) containerd runc
	@$(INTEGRATION) build -o $(OUT)/bench ./cmd/bench
	@$(OUT)/bench -o $(OUT)/bench.json

bench-cri: deps ## measure pods through CRI against runc; writes out/bench-cri.json
	@$(MAKE) --no-print-directory go c
	@$(PEERS) containerd runc
	@$(INTEGRATION) build -o $(OUT)/bench ./cmd/bench
	@$(OUT)/bench -cri -o $(OUT)/bench-cri.json

bench-registration: deps ## measure what registration with Proxmox VE costs, modes in turn (ROUNDS=15)
	@$(MAKE) --no-print-directory go c
	@$(PEERS) containerd runc
	@PVELXC_COST_ROUNDS=$(or $(ROUNDS),15) $(INTEGRATION) test ./registration -run TestCost -v -count=1
	@$(GO) test ./pve -run '^$$' -bench 'Reserve|Thousand' -benchtime 30x

bench-admin: deps ## measure what pvelxc list and doctor cost with many containers (CONTAINERS=500)
	@$(MAKE) --no-print-directory go c
	@$(PEERS) containerd runc
	@PVELXC_ADMIN_CONTAINERS=$(or $(CONTAINERS),500) $(INTEGRATION) test ./admin -run TestListCost -v -count=1 -timeout 30m

test-k8s: ## a kubelet and a control plane on our handler; builds Kubernetes the first time, which takes long
	@dist/dev/deps.sh k8s
	@$(MAKE) --no-print-directory go c
	@$(PEERS) containerd runc k8s
	@$(INTEGRATION) test -tags k8s -count=1 -timeout 30m -v ./k8s

test-pods: deps ## sixty pods come and go, on runc and on ours, and nothing is left
	@$(MAKE) --no-print-directory go c
	@$(PEERS) containerd runc
	@PVELXC_TEST_PODS=60 $(INTEGRATION) test -count=1 -timeout 20m -v -run TestManyPods ./cri

lint: deps ## go vet, golangci-lint, C with all warnings as errors, shell syntax
	@dist/dev/lint.sh

clean: ## remove what make built; the built peers in out/peers stay
	rm -rf $(BIN) dist/out $(OUT)/test $(OUT)/race

# One list of all programs, for whoever installs them.
programs:
	@echo $(GO_COMMANDS) $(SECCOMP) $(notdir $(C_PROGRAMS))

.PHONY: go c programs $(GO_COMMANDS) $(SECCOMP)
go: $(GO_COMMANDS) $(SECCOMP)
c: $(C_PROGRAMS)

# go build decides by itself what is out of date.
$(GO_COMMANDS):
	@CGO_ENABLED=0 $(GO) build $(GOFLAGS_STATIC) -o $(BIN)/ ./cmd/$@
$(SECCOMP):
	@CGO_ENABLED=1 $(GO) build -buildmode=pie $(GOFLAGS_STATIC) -o $(BIN)/ ./cmd/$@

$(BIN)/pvelxc-init: $(INIT_SOURCES) $(C_HEADERS) Makefile
	@mkdir -p $(BIN)
	$(CC) $(CFLAGS_COMMON) $(CFLAGS_INIT) $(CFLAGS) -static $(INIT_SOURCES) $(LDFLAGS_COMMON) -o $@

$(BIN)/pvelxc-monitor: $(MONITOR_SOURCES) $(C_HEADERS) Makefile
	@mkdir -p $(BIN)
	$(CC) $(CFLAGS_COMMON) $(CFLAGS_MONITOR) $(CFLAGS) -fPIE -pie $$($(PKG_CONFIG) --cflags lxc) $(MONITOR_SOURCES) $(LDFLAGS_COMMON) $$($(PKG_CONFIG) --libs lxc) -o $@

# Targets packages and release.
include dist/package/package.mk

# Targets vm and test-vm: Debian 13 with OpenZFS, AppArmor and cgroup v2 in an emulated machine.
-include integration/vm/vm.mk
