# What people and CI run. Needs Python 3.11 or newer and make; everything else is
# installed into .venv on first use. Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
BENCH ?=
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO := mixtral-8x7b/metro-4
DEMO_PLAN := build/demo/mixtral-8x7b-metro-4.plan.json

.DEFAULT_GOAL := help
.PHONY: help demo install format lint types test cov bench instances-check docs build clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## install, then solve a bundled instance and write its plan
	@mkdir -p $(dir $(DEMO_PLAN))
	@echo "Solving the bundled instance $(DEMO) with milp, for at most 60 s:"
	$(BIN)/meldopt solve $(DEMO) -s milp -t 60 -o $(DEMO_PLAN)
	@echo "The placement was written to $(DEMO_PLAN)"

install: $(INSTALLED)  ## create .venv with meldopt and the tools for its development

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "meldopt: '$(PYTHON)' was not found; name a Python of 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c "import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else 'meldopt: needs Python 3.11 or newer, but $(PYTHON) is %d.%d; name another one: make PYTHON=python3.11 ...' % v)"
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv (the first time this downloads about 250 MB) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt hatchling
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

format: $(INSTALLED)  ## format the code and apply the safe fixes of the linter
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lint: $(INSTALLED)  ## check format, lint rules, links and the generated pages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python docs/build.py --check
	$(BIN)/python docs/methods.py --check

types: $(INSTALLED)  ## check types (mypy, strict)
	$(BIN)/mypy

test: lint types  ## lint, types and all tests (ARGS='-k name' passes options to pytest)
	$(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

cov: $(INSTALLED)  ## run the tests with a coverage report
	$(BIN)/pytest -n 2 --dist loadgroup --cov --cov-report=term $(ARGS)

bench: $(INSTALLED)  ## measure the targets, one line each (BENCH=name runs one)
	$(BIN)/python -m tests.benchmarks $(BENCH)

instances-check: $(INSTALLED)  ## re-score all bundled instances and their best plans
	$(BIN)/python instances/check.py

docs: $(INSTALLED)  ## write docs/cli.md and the JSON Schemas, and check every link
	$(BIN)/python docs/methods.py
	$(BIN)/python docs/build.py

build: $(INSTALLED)  ## build the sdist and the wheel into dist/
	$(BIN)/python -m build --no-isolation --outdir dist .

clean:  ## remove everything that the targets above made, .venv too
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
