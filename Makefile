# The developer's doors; see README.md.
PYTHON  ?= python3
# Processes that run tests at once: one more than processors, since tests wait for servers a quarter of their time.
# Every test has ports, directories and file systems of its own.
WORKERS ?= $(shell nproc 2>/dev/null | awk '{ print ($$1 > 4) ? 5 : $$1 + 1 }')
VENV    := .venv
BIN     := $(VENV)/bin
PYTEST  := $(BIN)/pytest --numprocesses $(WORKERS)
# Of hypothesis: "ci" has the same examples in every run, "default" draws new ones.
PROFILE ?= ci

.PHONY: setup demo packages test test-long bench check schemas format clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@echo "Setting up $(VENV): about a minute, and 250 MB on disk"
	@$(PYTHON) tests/setup/packages.py venv
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

demo: setup
	@$(BIN)/reconciler demo

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m reconciler.schema --check

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schemas: setup
	$(BIN)/python -m reconciler.schema

packages: setup
	@$(BIN)/python tests/setup/packages.py

test: packages check
	$(PYTEST) --dist loadfile --hypothesis-profile $(PROFILE) -m "not long"

test-long: packages
	$(PYTEST) --dist worksteal -m long || test $$? -eq 5 # no tests: pytest has said so

bench: packages
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
