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
# The tests wait for other processes half of the time: more workers than cores. A file's tests share what is dear to make.
WORKERS ?= $(shell echo $$(($$(nproc) + 2)))
DEV_WORKERS ?= 6
# Of `make tests`, too, where they are done fewer times.
SOAK_LONGER := $(addprefix tests/integration/test_,power_cut.py core_crash.py titanic_crash.py)
# A worker that dies ends the run: pytest-xdist would wait for ever for tests that nobody does.
PYTEST = $(if $(COVERAGE),COVERAGE_PROCESS_START="$(CURDIR)/pyproject.toml") $(RUN) -m pytest -n $(WORKERS) --max-worker-restart=0 --dist loadfile --no-loadscope-reorder

.PHONY: help develop install uninstall wheel image start tests devtests soak lint docs boil bench fuzz fuzz-api test-clock test-gpio test-fleet test-image test-stage test-debian clean

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

image: ## build the image for a card, on plain Debian, in build/image (as root; an hour, then half of it; ARGS="--raw")
	@scripts/bootstrap image
	@image/debian/build $(ARGS)

start: ## start the appliance on its defaults: page on http://127.0.0.1:8080
	@scripts/bootstrap run charts
	@exec .venv/bin/raspy run $(ARGS)

tests: ## run all tests; reports under build/ (ARGS="-k word" to choose, COVERAGE=1 to measure)
	@scripts/bootstrap tests docs system charts
	@mkdir -p build
	@rm -rf build/coverage
	$(PYTEST) --junitxml=build/tests.xml -m "not soak and not fleet and not image" $(ARGS)
	$(if $(COVERAGE),$(RUN) -m coverage combine -q && $(RUN) -m coverage html -q && $(RUN) -m coverage report)

devtests: ## run the tests that need no root, hardware, browser or patience (under 60 s)
	@scripts/bootstrap tests
	@mkdir -p build
	$(PYTEST) -n $(DEV_WORKERS) --junitxml=build/devtests.xml -m "not slow and not soak and not fleet and not image and not system and not web" $(ARGS)

soak: ## run the tests that take minutes: kills and power cuts again and again, a full queue, examples at random (15 min)
	@scripts/bootstrap tests system
	$(PYTEST) --junitxml=build/soak.xml -m soak $(ARGS)
	RASPY_TEST_RANDOM=1 $(PYTEST) --junitxml=build/soak-random.xml -m "hypothesis and not soak and not image"
	RASPY_TEST_CUTS=50 RASPY_TEST_KILLS=12 RASPY_TEST_REQUESTS=5000 $(PYTEST) --junitxml=build/soak-cuts.xml $(SOAK_LONGER)

lint: ## check style and types
	@scripts/bootstrap lint
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy --strict --cache-dir build/mypy/strict raspy/common
	$(RUN) -m mypy --cache-dir build/mypy/plain raspy
	cd ansible && PATH="$(CURDIR)/.venv/bin:$$PATH" ansible-lint -q --offline --profile production

docs: ## build the documentation in build/docs
	@scripts/bootstrap docs
	$(RUN) -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "open build/docs/index.html"

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

test-debian: ## run the README's two commands in fresh Debian 12 and 13 (ARGS="trixie" to choose)
	@scripts/test-debian $(ARGS)

clean: ## remove what was built; .venv stays
	rm -rf build dist docs/_build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find raspy tests docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
