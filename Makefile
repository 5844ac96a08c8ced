# Everything a user types; each line calls the real thing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: env demo test lint benchmark figures promises

env: .venv/installed

# torch first: installed by itself it is the pinned version, not the newest with its CUDA
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev]'
	@touch $@

demo: env
	$(BIN)/inspect-ai demo

test: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: env
	$(BIN)/inspect-ai benchmark --profile quick

figures: env
	$(BIN)/python -m pipelines.benchmark

promises: env
	$(BIN)/python -m pipelines.promises count
	$(BIN)/python -m pipelines.promises observed
