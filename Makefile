# RasPy: `make` lists the targets. Nothing needs to be installed first but make, git and python3:
# scripts/bootstrap makes .venv, and mends it when it is half made or older than what it is made from.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PYTHON
export PREFIX ?= /usr/local
RUN := .venv/bin/python
ARGS ?=
# COVERAGE=1 measures the tests and every process that they start.
COVERAGE ?=
PYTEST = $(if $(COVERAGE),COVERAGE_PROCESS_START="$(CURDIR)/pyproject.toml") $(RUN) -m pytest -n auto
# These tests wait for other processes half of the time: more workers than cores.
DEV_WORKERS ?= 6

.PHONY: help develop install uninstall start tests devtests lint docs boil bench fuzz test-clock test-debian clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | while IFS=$$'\t' read -r name text; do \
	    printf 'make %-12s %s\n' "$$name" "$$text"; done

develop: ## make .venv with everything for working on RasPy
	@scripts/bootstrap lint tests docs

install: ## install for this machine, under PREFIX (default /usr/local)
	@scripts/install

uninstall: ## remove what `make install` put there
	@scripts/install --remove

start: ## start the appliance on its defaults: page on http://127.0.0.1:8080
	@scripts/bootstrap run
	@exec .venv/bin/raspy run $(ARGS)

tests: ## run all tests; reports under build/ (ARGS="-k word" to choose, COVERAGE=1 to measure)
	@scripts/bootstrap tests docs system
	@mkdir -p build
	@rm -rf build/coverage
	$(PYTEST) --junitxml=build/tests.xml $(ARGS)
	$(if $(COVERAGE),$(RUN) -m coverage combine -q && $(RUN) -m coverage html -q && $(RUN) -m coverage report)

devtests: ## run the tests that need no root, hardware, browser or patience (under 60 s)
	@scripts/bootstrap tests
	@mkdir -p build
	$(PYTEST) -n $(DEV_WORKERS) --junitxml=build/devtests.xml -m "not slow and not system and not web" $(ARGS)

lint: ## check style and types
	@scripts/bootstrap lint
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy --strict --cache-dir build/mypy/strict raspy/common
	$(RUN) -m mypy --cache-dir build/mypy/plain raspy

docs: ## build the documentation in build/docs
	@scripts/bootstrap docs
	$(RUN) -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "open build/docs/index.html"

boil: ## the thermostat at its own times, poll 10 s and lease 30 s, when something fails (4 min)
	@scripts/bootstrap tests system
	BOIL=full $(PYTEST) -n 10 tests/integration/test_boil.py $(ARGS)

bench: ## measure speed and memory, side by side with others where they are installed
	@scripts/bootstrap tests system
	$(RUN) -m tests.benchmarks $(ARGS)

fuzz: ## throw arbitrary frames at the broker for 10 minutes
	@scripts/bootstrap tests fuzz
	$(RUN) -m tests.fuzz $(ARGS)

test-clock: ## run sync in a virtual machine, whose clocks may be set and whose chips are there (3 min)
	@scripts/test-clock $(ARGS)

test-debian: ## run the README's two commands in fresh Debian 12 and 13 (ARGS="trixie" to choose)
	@scripts/test-debian $(ARGS)

clean: ## remove what was built; .venv stays
	rm -rf build dist docs/_build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find raspy tests docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
