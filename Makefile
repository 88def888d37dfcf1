# Works with Python >= 3.11, pip and make alone: every target makes the environment it needs in .venv.
#   make demo                      set up, then draw a picture and describe it (offline)
#   make test | lint | docs        what CI runs
#   make soak                      the slow tests
#   make setup                     everything needed for work on the code
#   PYTHON=python3.12              another interpreter
#   EXTRA_INDEX=URL                one more package index, e.g. PyTorch's index of CPU wheels
#   ARGS="-k folder"               more arguments for pytest

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
EXTRA_INDEX ?=
ARGS ?=
INSTALL := $(PIP) install --quiet -c constraints.txt $(if $(EXTRA_INDEX),--extra-index-url $(EXTRA_INDEX))
# The first interpreter that is new enough; `PYTHON=` on the command line or in the environment outranks it.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)

.PHONY: help setup demo test soak lint docs clean

help:
	@sed -n 's/^#  *make/make/p' Makefile

setup: $(VENV)/.dev

demo: $(VENV)/.base
	$(BIN)/opentar demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto -m "not slow" $(ARGS)

soak: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/python -m pytest tests/docs $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "OpenTar needs Python 3.11 or newer and found none; install it, or say PYTHON=path"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11; say PYTHON=path of a newer one"; exit 1; }
	@# Debian splits ensurepip off; then the outer pip puts pip into the environment.
	$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	@touch $@

$(VENV)/.base: $(VENV)/.python pyproject.toml constraints.txt
	@echo "setting up $(VENV): this downloads PyTorch once"
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	@echo "setting up $(VENV) with everything for development: this downloads PyTorch once"
	$(INSTALL) -e '.[dev]'
	@touch $(VENV)/.base $@
