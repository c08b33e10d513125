# RasPy: `make` lists the targets. Nothing needs to be installed first but make, git and python3:
# scripts/bootstrap makes .venv, and mends it when it is half made or older than what it is made from.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PYTHON
export PREFIX ?= /usr/local
RUN := .venv/bin/python
ARGS ?=
# Files of tests that are run under coverage, with every process that they start: what reaches 90 % of each module.
MEASURED := $(shell grep -sv '^\#' tests/measured.txt)
MEASURE := COVERAGE_PROCESS_START="$(CURDIR)/pyproject.toml" COVERAGE_FILE="$(CURDIR)/build/coverage/data"
# The tests wait for other processes most of the time: more workers than cores. A file's tests share what is dear to make.
WORKERS ?= $(shell echo $$(($$(nproc) * 3)))
# Those that are not measured wait even more.
WAITERS ?= $(shell echo $$(($$(nproc) * 4)))
# What takes longest begins first, so that nothing is left to wait for in the end: pytest keeps the order in which it is
# told of files. For the measured ones, tests/measured.txt has that order.
LONG := $(addprefix tests/,integration/test_conformance.py system/test_role.py repo/test_make.py web/test_owner.py \
	integration/test_boil.py web/test_browser.py web/test_axe.py servers/test_curve_processes.py repo/test_packaging.py \
	repo/test_docs_build.py)
# Where this is set each of the thousands of processes compiles anew what it imports.
export PYTHONDONTWRITEBYTECODE :=
DEV_WORKERS ?= 6
# Of `make tests`, too, where they are done fewer times.
SOAK_LONGER := $(addprefix tests/integration/test_,power_cut.py core_crash.py titanic_crash.py)
ORDINARY := "not soak and not fleet and not image"
# A worker that dies ends the run: pytest-xdist would wait for ever for tests that nobody does.
PYTEST = $(RUN) -m pytest -n $(WORKERS) --max-worker-restart=0 --dist loadfile --no-loadscope-reorder

.PHONY: help develop install uninstall wheel sdist image start tests devtests soak lint docs pdf boil bench fuzz fuzz-api test-sdist test-clock test-gpio test-fleet test-image test-stage test-debian screenshot release clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | while IFS=$$'\t' read -r name text; do \
	    printf 'make %-12s %s\n' "$$name" "$$text"; done

develop: ## make .venv with everything for working on RasPy
	@scripts/bootstrap lint tests docs charts

install: ## install for this machine, under PREFIX (default /usr/local)
	@scripts/install

uninstall: ## remove what `make install` put there
	@scripts/install --remove

wheel: ## build what the Ansible role installs, in dist/
	@scripts/wheel

sdist: ## build the archive of the sources, in dist/
	@scripts/sdist

image: ## build the image for a card, on plain Debian, in build/image (as root; an hour, then half of it; ARGS="--raw")
	@scripts/bootstrap image
	@image/debian/build $(ARGS)

start: ## start the appliance on its defaults: page on http://127.0.0.1:8080
	@scripts/bootstrap run charts
	@exec .venv/bin/raspy run $(ARGS)

tests: ## run all tests; reports under build/ (ARGS="-k word" to choose, which measures no coverage)
	@scripts/bootstrap tests docs system charts packaging
	@mkdir -p build
	@rm -rf build/coverage
ifneq ($(strip $(ARGS)),)
	$(PYTEST) --junitxml=build/tests.xml -m $(ORDINARY) $(ARGS)
else
	@failed=0; \
	$(MEASURE) $(PYTEST) --junitxml=build/tests-measured.xml -m $(ORDINARY) $(MEASURED) || failed=1; \
	$(PYTEST) -n $(WAITERS) --junitxml=build/tests.xml -m $(ORDINARY) $(addprefix --ignore=,$(MEASURED)) $(LONG) tests || failed=1; \
	$(RUN) -m tests.covered build/tests-measured.xml || failed=1; \
	exit $$failed
endif

devtests: ## run the tests that need no root, hardware, browser or patience (under 60 s)
	@scripts/bootstrap tests packaging
	@mkdir -p build
	$(PYTEST) -n $(DEV_WORKERS) --junitxml=build/devtests.xml -m "not slow and not soak and not fleet and not image and not system and not web" $(ARGS)

soak: ## run the tests that take minutes: kills and power cuts again and again, a full queue, examples at random (15 min)
	@scripts/bootstrap tests system
	$(PYTEST) --junitxml=build/soak.xml -m soak $(ARGS)
	RASPY_TEST_RANDOM=1 $(PYTEST) --junitxml=build/soak-random.xml -m "hypothesis and not soak and not image"
	RASPY_TEST_CUTS=50 RASPY_TEST_KILLS=12 RASPY_TEST_REQUESTS=5000 $(PYTEST) --junitxml=build/soak-cuts.xml $(SOAK_LONGER)

lint: ## check style and types; what was said is in build/lint.txt, too
	@scripts/bootstrap lint
	@mkdir -p build
	@set -o pipefail; $(MAKE) --no-print-directory lint-here 2>&1 | tee build/lint.txt

lint-here:
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy --strict --cache-dir build/mypy/strict raspy/common
	$(RUN) -m mypy --cache-dir build/mypy/plain raspy
	cd ansible && PATH="$(CURDIR)/.venv/bin:$$PATH" ansible-lint -q --offline --profile production

docs: ## build the documentation in build/docs, the man pages in build/man, and, where there is LaTeX, build/raspy.pdf
	@scripts/bootstrap docs
	$(RUN) -m sphinx -q -W --keep-going -b html docs build/docs
	@$(RUN) docs/_ext/man_pages.py build/man
	@echo "open build/docs/index.html, or: man -l build/man/man1/raspy.1"
	@scripts/pdf --if-possible

pdf: ## build the documentation as build/raspy.pdf, with LaTeX (2 min)
	@scripts/bootstrap docs
	@scripts/pdf

boil: ## the thermostat at its own times, poll 10 s and lease 30 s, when something fails (4 min)
	@scripts/bootstrap tests system
	BOIL=full $(PYTEST) -n 10 --dist load tests/integration/test_boil.py $(ARGS)

bench: ## measure speed and memory, side by side with others where they are installed
	@scripts/bootstrap tests system
	$(RUN) -m tests.benchmarks $(ARGS)

fuzz: ## throw arbitrary frames at the broker for 10 minutes
	@scripts/bootstrap tests fuzz
	$(RUN) -m tests.fuzz $(ARGS)

fuzz-api: ## let schemathesis loose on the API of an appliance for 10 minutes (ARGS="--seconds 60")
	@scripts/bootstrap tests fuzz-api
	$(RUN) -m tests.fuzz.api $(ARGS)

test-sdist: ## run the quick tests of the archive of the sources in itself, with a .venv of its own (5 min)
	@scripts/test-sdist

test-clock: ## run sync in a virtual machine, whose clocks may be set and whose chips are there (3 min)
	@scripts/test-clock $(ARGS)

test-gpio: ## run gpio on the chips of virtual arm64 machines, with a Debian kernel (10 min; ARGS="virt" to choose)
	@scripts/test-gpio $(ARGS)

test-fleet: ## run a broker and three nodes, each a container with systemd, which one command provisions (10 min)
	@scripts/bootstrap tests system
	$(PYTEST) -n 1 --junitxml=build/fleet.xml -m fleet $(ARGS)

test-image: ## boot the image of `make image` in QEMU: first boot, power cut, factory reset, RTC (as root; 30 min)
	@scripts/bootstrap tests image
	@[ -n "$$RASPY_PLAIN_IMAGE" ] || [ -e build/image/plain-debian.img ] || image/debian/build --plain
	$(RUN) -m pytest -m image --junitxml=build/image.xml tests/image $(ARGS)

test-stage: ## run pi-gen's stage on roots of Debian, amd64 and, emulated, arm64 (as root; 10 to 40 min)
	@scripts/bootstrap tests image
	$(RUN) -m pytest -m image --junitxml=build/stage.xml tests/image/test_stage.py $(ARGS)

test-debian: ## run the README's two commands and the first steps in fresh Debian 12 and 13 (ARGS="trixie" to choose)
	@scripts/test-debian $(ARGS)

screenshot: ## take the picture of the first page that README and documentation show
	@scripts/bootstrap tests
	$(RUN) -m tests.web.screenshot

release: ## check everything and make commit and tag of a version: VERSION=1.2.3 (ARGS="--dry-run")
	@scripts/release $(VERSION) $(ARGS)

clean: ## remove what was built; .venv stays
	rm -rf build dist docs/_build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find raspy tests docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
