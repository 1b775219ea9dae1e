# One door to everything; `make help` lists it.
PYTHON ?= python3
RECIPE ?= tiny
PREFERENCE ?= grpo
SEED ?= 0
RUNS ?= .runs
SET ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup pipeline-run pipeline-compile kind-up kind-test kind-down test check bench format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## make the virtual environment in .venv from requirements.lock

.venv/ready: pyproject.toml requirements.lock requirements-alone.lock bootstrap.py
	$(PYTHON) bootstrap.py .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-alone.lock --editable .
	@touch $@

pipeline-run: .venv/ready ## run the whole pipeline here: RECIPE=tiny PREFERENCE=grpo|dpo SEED=0 RUNS=.runs
	@$(BIN)/python -m pipelines.local --recipe $(RECIPE) --preference $(PREFERENCE) --seed $(SEED) --runs $(RUNS) $(foreach setting,$(SET),--set $(setting))

pipeline-compile: .venv/ready ## write the pipeline for a cluster: dist/RECIPE.yaml
	@$(BIN)/python -m pipelines.compile $(RECIPE) $(foreach setting,$(SET),--set $(setting))

kind-up: .venv/ready ## make a kind cluster with Kubeflow Pipelines; needs Docker, kind, the internet
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.kind.cluster up

kind-test: .venv/ready ## run the tiny recipe on the kind cluster and read its figures back
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.kind.cluster test

kind-down: .venv/ready ## delete the kind cluster
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.kind.cluster down

test: .venv/ready ## run the tests
	@$(BIN)/python -m pytest

check: .venv/ready ## ruff format, ruff and mypy, changing nothing
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

bench: .venv/ready ## measure side by side and write benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks

format: .venv/ready ## format and fix what ruff can
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lock: ## resolve pyproject.toml anew into requirements.lock; needs a C compiler
	rm -rf .venv && $(PYTHON) bootstrap.py .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip freeze --exclude-editable | sed -E 's/^(torch==[0-9.]+)\+.*/\1/' | grep -Ev '^(nvidia-|cuda-|triton==|pycosat==|reasoning_gym==)' > requirements.lock
	@touch .venv/ready

clean: ## remove the virtual environment and the runs
	rm -rf .venv $(RUNS) dist *.egg-info
