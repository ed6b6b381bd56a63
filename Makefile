# Lacuna's commands. Each sets up what it needs in .venv first; a stamp makes the second run quick.
# PYTHON names the interpreter to build .venv with (any 3.11 or newer); VENV where to put it.

.DEFAULT_GOAL := help
SHELL := bash
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq
# a caller's PYTHONPATH would be seen before what is installed here
unexport PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# a candidate must run, not only exist: version managers leave launchers for versions that are not there
CANDIDATES := python3.11 python3.12 python3.13 python3.14 python3 python
PROBE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in $(CANDIDATES); do "$$p" -c '$(PROBE)' >/dev/null 2>&1 && command -v "$$p" && break; done)

.PHONY: help demo test lint types pytest editors kernels format docs wheel vsix clean
.DELETE_ON_ERROR:

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.installed  ## fill holes in code that the embedded model has never seen, in your terminal
	@$(BIN)/lacuna demo

# every part runs, whatever came before it; one failure fails the whole
test: $(VENV)/.dev editors  ## everything that needs no GPU: ruff, mypy, pyright, all tests
	@status=0; for part in lint types pytest; do \
	    echo "== make $$part"; $(MAKE) --no-print-directory $$part || status=1; done; exit $$status

lint: $(VENV)/.dev  ## ruff
	$(BIN)/ruff check .

types: $(VENV)/.dev  ## mypy and pyright, both strict, on every room
	@status=0; $(BIN)/mypy || status=1; $(BIN)/pyright --pythonpath $(BIN)/python || status=1; exit $$status

# two files of tests side by side, each with one thread of torch's, because four on two cores take twice as long; and then
# the editors alone: they are typed into, and see what the user would see
pytest: $(VENV)/.dev  ## all tests; ARGS narrows them: make pytest ARGS='tests/infill -x'
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	@status=0; OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not editor' || status=1; \
	    $(BIN)/python -m pytest -m editor || status=1; exit $$status
endif

# where a real editor cannot be fetched the rest is tested all the same, and the editors' tests say why they were skipped
editors: $(VENV)/.dev  ## real editors for the tests, under .editors/; what is there already is kept
	@PYTHON=$(abspath $(BIN))/python tests/support/setup_editors.sh || \
	    echo "make: not all editors are here; the tests of those that are missing are skipped" >&2

# one process cannot both interpret kernels and compile them; the tests start this one themselves
kernels: $(VENV)/.dev  ## the Triton kernels' numbers alone, in triton's interpreter
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/kernels

format: $(VENV)/.dev  ## let ruff mend what it can
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev  ## write what is generated: README.md's options, both editors' settings and help, the greeting
	$(BIN)/python tests/support/readme_options.py
	$(BIN)/python tests/support/greeting_truth.py
	$(BIN)/python editors/generate_settings.py
	@nvim=.editors/nvim/usr/bin/nvim; [ -x $$nvim ] || nvim=nvim; $$nvim -l editors/neovim/scripts/help.lua

wheel: $(VENV)/.dev  ## dist/: the sdist, and the wheel built from it
	rm -rf dist build
	$(BIN)/python -m build

vsix: $(VENV)/.dev  ## the VS Code extension as a .vsix (needs Node 20 and npm)
	cd editors/vscode && npm ci --ignore-scripts --no-audit --no-fund && npm run package

clean:  ## remove everything that these commands made
	rm -rf $(VENV) .editors build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo "Lacuna needs Python 3.11 or newer with its venv module. Install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade 'pip>=25.1'

# constraints.txt holds for this checkout only: who installs the wheel chooses a torch build of their own
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Lacuna and its libraries into $(VENV): a few minutes the first time."
	$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.installed
	$(PIP) --constraint constraints.txt --group dev
	@touch $@
