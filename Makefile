# isotherm: everything runs from .venv/, which the targets build themselves.
#
#   make demo           the main job on recorded workloads, table and HTML report
#   make test           lint, types, layers and tests
#   make vm             tests/vm on real kernels under QEMU; LAYOUT= KERNEL= choose
#   make vm-all         the same with the long ones
#   make gpu            the accelerator tier with torch and triton, in .venv-gpu/
#   make docs           the documentation site, in out/site/
#   make docs-commands  every command of the pages, those that take minutes too
#   make changelog      VERSION=0.2.0: changelog.d/ becomes a section of CHANGELOG.md
#   make lint           ruff, mypy --strict, import-linter
#   make bench          timings; make bench-quality: every policy on every cell
#   make mutations      every decoder on ten million malformed inputs
#   make venv           only build .venv/
#   make lock           renew requirements/*.txt
#   make clean          remove .venv/, .venv-gpu/ and what tools have left
#
# PYTHON: 3.11 or later.  JOBS: test processes.  ARGS: passed on to the command.
# ISOTHERM_NO_APT=1 keeps make from installing Debian packages.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS ?= 2
ARGS ?=
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test vm vm-all gpu lint layers style types check docs docs-commands changelog bench bench-quality mutations venv system lock clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   \{0,1\}//p' Makefile

demo: .venv/.lab
	$(BIN)/isotherm demo $(ARGS)

# `make --keep-going test` runs the tests even where lint complains.
test: lint check

lint: layers style types

layers: .venv/.test
	$(BIN)/lint-imports

style: .venv/.test
	$(BIN)/ruff check --output-format concise src vmtest tests benchmarks deploy docs/man docs/site
	$(BIN)/ruff format --check src vmtest tests benchmarks deploy docs/man docs/site

types: .venv/.test
	$(BIN)/mypy

check: .venv/.test system
	$(BIN)/python -m pytest -n $(JOBS) --ignore tests/vm $(ARGS)

# Each layout boots once. Debian packages come by themselves: docs/reference/vmtest.md.
vm: .venv/.test
	@LAYOUT="$(LAYOUT)" KERNEL="$(KERNEL)" ARGS="$(ARGS)" .ci/vm

vm-all: .venv/.test
	@LAYOUT="$(LAYOUT)" KERNEL="$(KERNEL)" ARGS="$(ARGS)" VM_ALL=1 \
	    VM_BUDGET_S="$${VM_BUDGET_S:-7200}" .ci/vm

gpu:
	@PYTHON="$(PYTHON)" ARGS="$(ARGS)" .ci/gpu

# Links that lead nowhere are errors, to headings too. Nothing is fetched.
docs: .venv/.test
	@rm -rf out/site
	@$(BIN)/python -m sphinx -b html -c docs/site -d out/site-cache -E -q -n -W \
	    --keep-going $(ARGS) . out/site
	@echo "out/site/index.html"

docs-commands: .venv/.test system
	DOCS_COMMANDS=all $(BIN)/python -m pytest tests/docs -n 0 --timeout 0 \
	    -p no:randomly -rs $(ARGS)

changelog: .venv/.test
	@PYTHON=$(BIN)/python VERSION="$(VERSION)" DATE="$(DATE)" .ci/changelog

bench: .venv/.test
	@for script in benchmarks/bench_*.py; do \
	    echo "== $$script"; $(BIN)/python $$script $(ARGS) || exit 1; done

bench-quality: .venv/.test
	$(BIN)/python benchmarks/quality.py $(ARGS)

mutations: .venv/.test
	MUTATIONS=$${MUTATIONS:-10000000} $(BIN)/python -m pytest --timeout 0 \
	    --durations 0 $$(find tests -name 'test_*_mutations.py') $(ARGS)

venv: .venv/.test

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "make: no python3.11 or python3 found" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "make: $(PYTHON) is older than 3.11; try make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -m venv .venv || { \
	    rm -rf .venv; \
	    echo "make: $(PYTHON) -m venv failed; try apt install python3-venv" >&2; exit 1; }

# The project itself is installed without looking for newer build tools.
.venv/.lab: requirements/lab.txt pyproject.toml | .venv/bin/python
	@echo "make: installing isotherm and what it needs into .venv, some minutes"
	$(BIN)/python -m pip install --quiet --requirement requirements/lab.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.test: requirements/test.txt .venv/.lab
	@echo "make: installing what tests and the documentation need, some minutes"
	$(BIN)/python -m pip install --quiet --requirement requirements/test.txt
	@touch $@

# Tests that want these skip with words where they cannot be had.
system:
	@.ci/system-packages

lock: .venv/.test
	$(BIN)/python -m pip install --quiet pip-tools
	.ci/lock

clean:
	rm -rf .venv .venv-gpu build dist out .mypy_cache .ruff_cache .pytest_cache \
	    .hypothesis .import_linter_cache .coverage
	find src vmtest tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
