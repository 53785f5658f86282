# make demo   creates .venv, installs, runs the main job      make test   the same, runs all tests
# make lint   ruff (rules and format), mypy                    make docs   the documentation, into site/
# Another Python (3.10 or newer): make demo PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# How many tests run at once, and what else pytest is told: make test PYTEST="-m 'not slow'"
JOBS ?= 2
PYTEST ?=

.PHONY: demo test lint docs fuzz clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python -m vitc.demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -q $(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

HOURS ?= 1
SEED ?= 1
fuzz: $(VENV)/.dev
	$(BIN)/python tests/fuzz/run.py --hours $(HOURS) --seed $(SEED)

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build dist site

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 10) and "vitc needs Python 3.10 or newer, $(PYTHON) is %d.%d; choose another: make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# PyTorch first: it is the largest by far, and everything else must agree with it.
$(VENV)/.torch: constraints.txt $(VENV)/.python
	@echo "installing PyTorch ..."
	$(PIP) install -c constraints.txt torch
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	@echo "installing vitc ..."
	$(PIP) install -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	@echo "installing vitc, the model zoos, TensorRT-RTX, nvcc and the tools ..."
	$(PIP) install -c constraints.txt -e '.[cuda,demo,dev,docs,nvcc,rtx,zoo]'
	@touch $@ $(VENV)/.demo
