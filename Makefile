# drrun: everything that is done with this tree is a target here.
SHELL := /bin/bash
GO ?= go
TESTFLAGS ?=
SEED ?= 1
export CGO_ENABLED ?= 0
# One set of flags for every build and test, also for the programs that tests
# build: what one target has compiled the next one finds in the cache.
export GOFLAGS := $(strip $(filter-out -trimpath,$(GOFLAGS)) -trimpath)

.PHONY: help
help: ## print this help
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

.PHONY: demo
demo: build ## the main job on this machine: two sites, failovers and back, under a minute
	$(GO) build -o bin/ledger ./examples/erp/ledger
	$(GO) build -o bin/erp-demo ./examples/erp/demo
	bin/erp-demo --bin bin $(DEMOFLAGS)

# The packages whose tests take longest begin first, so that none of them is
# left alone at the end.
LONGEST = ./cmd/internal/e2e ./agent ./runtime ./cmd/internal/plantest ./cmd/drrun ./agent/source ./agent/replica

.PHONY: test
test: ## all tests (TESTFLAGS=-race for the race detector; what was skipped is listed)
	@set -o pipefail; CGO_ENABLED=$(if $(findstring -race,$(TESTFLAGS)),1,$(CGO_ENABLED)) \
		$(GO) test -parallel 4 $(TESTFLAGS) $(LONGEST) ./... | grep --line-buffered -v 'no test files' ; code=$$?; \
		if [ $$code -eq 0 ] && [ -z "$$DRRUN_NO_SKIP" ]; then echo "what a test skipped, and how to get it: go test -v ./... | grep -A1 'SKIP'"; fi; exit $$code

.PHONY: build
build: ## bin/drrun and bin/drrun-agent
	$(GO) build -o bin/drrun ./cmd/drrun
	$(GO) build -o bin/drrun-agent ./cmd/drrun-agent

# What is only to compile, and not to run, is not optimized.
QUICK = -gcflags='all=-N -l'

.PHONY: check
check: ## formatting, vet, other platforms, modules
	@test -z "$$(gofmt -l . | tee /dev/stderr)"
	$(GO) vet ./...
	GOOS=darwin $(GO) build $(QUICK) ./...
	GOARCH=arm64 $(GO) build $(QUICK) ./...
	$(GO) mod tidy -diff

.PHONY: lint
lint: ## golangci-lint, if it is installed (version in .golangci.yml)
	golangci-lint run

.PHONY: hostile
hostile: ## all hostile plans and functions, under the race detector
	CGO_ENABLED=1 $(GO) test -race -count=1 -v -timeout 60m ./scripts -run 'Hostile|Hungry|LongLists' -args -every
	CGO_ENABLED=1 $(GO) test -race -count=1 ./scripts/sandbox

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (default 30s)
	@set -e; for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "== $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $${FUZZTIME:-30s} -fuzzminimizetime 10x $$pkg; \
		done; done

.PHONY: test-kill
test-kill: build ## 25 seeded kills of runtime and agents, a site that dies or a network that is cut at every step (SEED=n)
	DRRUN_SEED=$(SEED) DRRUN_KILLS=25 DRRUN_LONG=1 $(GO) test -count=1 -v -run 'Kill|Dies|TwoRuntimes|Partition' -parallel 4 -timeout 90m ./cmd/internal/e2e

.PHONY: test-crash
test-crash: ## every operation of the replica's disk failed; agents and runtime killed at all crash points and 50 seeded ones (SEED=n)
	$(GO) test -count=1 ./agent/replica -run 'Crash|FailsOnce' -args -every
	DRRUN_SEED=$(SEED) DRRUN_KILLS=50 $(GO) test -count=1 -v -run 'Crash' -timeout 90m ./cmd/internal/e2e

.PHONY: sim
sim: ## the deterministic simulation: SEEDS seeds (default 10000) from FROM (default 1), shared by JOBS processes
	$(GO) run ./cmd/internal/sim/detrt bin/detrt
	$(GO) test -c -tags detrt,planted -overlay bin/detrt/overlay.json -o bin/sim.test ./cmd/internal/sim
	bin/sim.test -test.run '^TestSeedsRepeat$$' -seeds $${REPEAT:-10} -from $${FROM:-1}
	@$(call share,TestSim,-seeds $${SEEDS:-10000} -from $${FROM:-1})

.PHONY: sim-planted
sim-planted: ## which seed of the simulation finds each planted fault (all within MOST, default 500)
	$(GO) run ./cmd/internal/sim/detrt bin/detrt
	$(GO) test -c -tags detrt,planted -overlay bin/detrt/overlay.json -o bin/sim.test ./cmd/internal/sim
	@$(call share,TestPlanted,-test.v -most $${MOST:-500})

# share runs a test of the simulation in JOBS processes.
share = pids=(); for i in $$(seq $${JOBS:-2}); do bin/sim.test -test.run '^$(1)$$' -test.timeout 0 $(2) -part $$i -parts $${JOBS:-2} & pids+=($$!); done; \
	code=0; for p in $${pids[@]}; do wait $$p || code=1; done; exit $$code

.PHONY: plans
plans: ## the example plans and their tests under every single fault and death, and their mutants (PLANS=GoodPlans leaves those out; SHARE=1 tries a share)
	$(GO) test ./cmd/internal/plantest -run "$${PLANS:-Examples|GoodPlans|Mutants|Planted}" -timeout 30m -v $(if $(SHARE),,-args -full)

.PHONY: bench
bench: build ## first copy, deltas, memory and CPU against rsync in the same run; a plan of 10,000 machines
	$(GO) run ./cmd/drrun-bench --bin bin $(BENCHFLAGS)
	$(GO) run ./cmd/drrun-bench --plan 10000

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
