# The environment is .venv; everything in it is pinned by constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Tests run side by side: one thread each is faster than two that wait for each other.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1

.PHONY: install demo test lint types docs unit benchmark format clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet --constraint constraints.txt --upgrade pip
	$(PIP) install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

demo: install
	$(BIN)/chreode demo

test: lint types docs unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: install
	rm -rf docs/_build docs/api
	$(ONE_THREAD) $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

unit: install
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n 2 --durations 10

benchmark: install
	$(BIN)/python benchmarks/step_time.py --profile --scale

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv docs/_build docs/api dist .pytest_cache .ruff_cache
