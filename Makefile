# Two commands matter: `make demo` and `make test`. Each does all the set-up it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
# Types of a fresh checkout are checked against what the last one left, by the sources' hashes.
export MYPY_CACHE_DIR ?= $(or $(GPUAAS_CACHE),$(HOME)/.cache/slurm-gpuaas)/mypy

# Some images set it: each process of pytest would then take all tests apart anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo demo-national test browser coverage install dev lint bench soak docs clean

help: ## Say what can be made
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/pip:
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) has no venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(STAMP)-client: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(STAMP)-dev: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[daemon,portal,agent,test,docs]'
	@touch $@ $(STAMP)-client

install: $(STAMP)-client ## Install `gpuaas` into .venv for everything that needs no Slurm (no root)
	@echo "Ready: $(BIN)/gpuaas --help"

dev: $(STAMP)-dev ## Install everything that tests, daemon and documentation need into .venv

demo: $(STAMP)-client ## Boot 1,032 GPUs of real Slurm, run the whole loop, leave it running (root)
	$(BIN)/gpuaas testbed demo

demo-national: $(STAMP)-dev browser ## Three Slurm clusters and a portal, from application to statement (root); SIZE=full for 13,136 GPUs
	$(BIN)/gpuaas testbed demo-national --size $(or $(SIZE),small)

browser: ## Install what the browser tests need beside Python: Chromium, Node (root, where they are missing)
	sh tests/browser/install.sh

test: $(STAMP)-dev browser ## Lint, types and the whole suite on real Slurm and in a real browser (root)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

coverage: $(STAMP)-dev browser ## The whole suite again with the lines and branches it covers (root; slow)
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --cov --cov-report=term

bench: $(STAMP)-dev ## Ratios against the obvious alternative, side by side; GROUP=name for one group
	$(BIN)/python -m tests.bench $(GROUP)

soak: $(STAMP)-dev ## Long runs that the suite leaves out: the national pool at full size (root)
	$(BIN)/pytest -s tests/soak

docs: $(STAMP)-dev ## Build the documentation into docs/_build
	$(BIN)/sphinx-build -q -W -b html docs docs/_build

clean: ## Remove what this folder holds beside the sources (the cache stays)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis docs/_build build *.egg-info
