# Everything a developer runs. Needs Python 3.11 or later, make and git; the rest is installed into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# One stamp per set of packages: a later run reuses what is there.
RUNTIME := $(VENV)/runtime.stamp
DEVELOPMENT := $(VENV)/development.stamp
# Two workers with one thread each are faster than one with two, and tests stay deterministic.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest
DEMO ?= demo

.DEFAULT_GOAL := help
.PHONY: help demo install test lint types slow bench docs format accept clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

demo: $(RUNTIME) ## Train a small network on generated scenes and write demo/report.html (4 minutes)
	$(BIN)/semseg demo --out $(DEMO) --overwrite

install: $(DEVELOPMENT) ## Create .venv with the package and the tools of development

test: $(DEVELOPMENT) ## Run all fast tests
	$(PYTEST) -q -n $(WORKERS)

lint: $(DEVELOPMENT) ## Check style, format and the order of the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(DEVELOPMENT) ## Check types
	$(BIN)/mypy

slow: $(DEVELOPMENT) ## Run the tests that take minutes
	$(PYTEST) -q -m slow

bench: $(DEVELOPMENT) ## Time every network on this machine
	$(BIN)/python benchmarks/networks.py

docs: $(DEVELOPMENT) ## Write the generated parts of README.md and docs/
	$(BIN)/python tools/generate_docs.py

format: $(DEVELOPMENT) ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

accept: $(DEVELOPMENT) ## Record the outputs of one network as expected: make accept MODEL=unet
	@test -n "$(MODEL)" || { echo "give the network: make accept MODEL=unet" >&2; exit 2; }
	$(PYTEST) -q tests/models --accept -k "$(MODEL)"

clean: ## Remove .venv, caches and what runs wrote here
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache dist build $(DEMO)
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=/path/to/python")'
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(DEVELOPMENT): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(RUNTIME) $@
