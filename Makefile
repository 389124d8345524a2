# make demo: install, then explain and measure the bundled networks, and write a report.
# make test: install, then check everything.
# Both make .venv, with the versions of constraints.txt. Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Named in full, together with the rest: a range would let another package choose the build of torch.
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt $(TORCH)

.PHONY: demo test lint clean help

help:
	@sed -n '1,3s/^# //p' Makefile

demo: $(VENV)/.installed
	$(BIN)/advex demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/pyright

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[dev]'
	@touch $(VENV)/.installed $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'advex needs Python 3.11 or later. Name one: make demo PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

clean:
	rm -rf demo runs records build dist .pytest_cache .ruff_cache .hypothesis
