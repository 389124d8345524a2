# make demo: install, then explain and measure the bundled networks, and write a report.
# make test: install, then check everything. make check: lint, types and the quick tests. make coverage: what tests reach.
# make dist: a wheel and an archive, tried in a clean environment. make docs: the site. make examples: the notebooks, run.
# All make .venv, with the versions of constraints.txt. Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Named in full, together with the rest: a range would let another package choose the build of torch.
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt $(TORCH)
# One thread each: the tests are many and small. The tests of a file share a process, and what they prepare.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-data check lint coverage dist docs examples clean help

help:
	@sed -n '1,4s/^# //p' Makefile

demo: $(VENV)/.installed
	$(BIN)/advex demo

test: lint
	$(PYTEST)

# The tests that read the development data, which the environment variable ADVEX_DATA names.
test-data: $(VENV)/.installed-dev
	$(PYTEST) -m data

check: lint
	$(PYTEST) -m "not slow and not browser and not postgres"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/pyright --threads 2

coverage: $(VENV)/.installed-dev
	$(PYTEST) --cov=advex --cov-report=term:skip-covered

# The wheel is tried from a folder and by a Python that know nothing of this one.
dist: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(PYTHON) -m venv dist/clean
	dist/clean/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt $(TORCH) dist/*.whl
	cd dist && unset PYTHONPATH && clean/bin/advex --version && clean/bin/advex list >/dev/null && \
	  clean/bin/advex explain --data cifar10-sample --index 0 --target runner-up --steps 5 --out clean/explained
	rm -rf dist/clean

# A warning is an error: a link that leads nowhere, a name that is not documented.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The notebooks beside the scripts, with what their cells give.
examples: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.notebooks

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
	rm -rf demo runs records build dist site .pytest_cache .ruff_cache .hypothesis .coverage
