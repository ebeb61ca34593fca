# `make test` is what CI runs; `make test-all` adds the long proofs (kills, seeds, the learning bar).
.PHONY: install tiny test test-all lint bench bench-gpu

BIN := $(or $(LLAVAFLOW_VENV),.venv)/bin

install:
	@bash infra/install.sh

tiny: install
	$(BIN)/pipeline run llava15-tiny

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest

test-all: lint
	$(BIN)/python -m pytest -m "slow or not slow"

bench: install
	$(BIN)/python -m pytest -m "slow or not slow" -s tests/bench

# on a machine with a GPU, torch and transformers; nothing of this project need be installed there
bench-gpu:
	$(or $(PYTHON),python3) tests/bench/gpu.py --out tests/bench/gpu.json
