# Every target sets up .venv by itself. `make` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
FUZZ_SECONDS ?= 600
SEEDS ?= 0..7399
RESULTS ?=
HANDSHAKES ?= 100000
E2E ?= tests/e2e
FUZZ_READY := $(VENV)/.ready-fuzz

.DEFAULT_GOAL := help
.PHONY: help setup test lint format proto proto-check bench fuzz sim search clients e2e localnet clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml proto/pyproject.toml
	@PYTHON="$(PYTHON)" sh deploy/check-build-tools.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -e proto -e . --group dev
	@touch $@

$(FUZZ_READY): $(READY)
	$(BIN)/python -m pip install --quiet --group fuzz
	@touch $@

setup: $(READY) ## Make .venv with everything that the other targets use.

test: $(READY) ## Run the test suite.
	$(BIN)/python -m pytest -n 2

lint: $(READY) ## Check style, types and the directions of imports.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(READY) ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(READY) ## Generate the stubs and the descriptor set from the schemas.
	$(BIN)/python proto/generate.py

proto-check: $(READY) ## Fail if the committed stubs differ from what the schemas say.
	$(BIN)/python proto/generate.py --check

bench: $(READY) ## Run the benchmarks and print their tables.
	$(BIN)/python -m tests.bench

fuzz: $(FUZZ_READY) ## Fuzz every decoder for FUZZ_SECONDS (default 600), and HANDSHAKES (default 100000).
	$(BIN)/python -m tests.fuzz.campaign --seconds $(FUZZ_SECONDS)
	$(BIN)/python -m tests.p2p.fuzz_handshake $(HANDSHAKES)

sim: $(READY) ## Simulate SEEDS (default 0..7399) at n = 4, 7 and 10; RESULTS=file keeps them, and goes on there.
	$(BIN)/trellis sim --seeds $(SEEDS) $(if $(RESULTS),--results $(RESULTS))

search: $(READY) ## Search small networks exhaustively, and with twins; then the mutants of the core.
	$(BIN)/trellis sim --exhaustive --twins
	$(BIN)/python -m tests.node.simulator.mutants

clients: $(READY) ## Install grpcurl (with Go) and buf (with npm) into .venv, as far as these are there.
	sh deploy/install-clients.sh $(VENV)

e2e: $(READY) ## Run real processes on real sockets, and kill some; E2E names fewer of the tests.
	$(BIN)/python -m pytest -m e2e $(E2E)

localnet: $(READY) ## Run four validators on this machine, and show them until Ctrl-C.
	$(BIN)/trellis localnet up

clean: ## Remove .venv and what builds left behind.
	rm -rf $(VENV) build dist *.egg-info proto/*.egg-info proto/build .mypy_cache .ruff_cache .hypothesis
