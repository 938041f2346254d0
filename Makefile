# Everything a newcomer or a developer runs. `make demo` and `make test` each start from nothing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo test full docs bench prepare release clean
help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/  -/'

setup: $(STAMP)  ## the environment alone, in .venv
$(STAMP): constraints.txt settings.ini setup.py
	@command -v $(PYTHON) >/dev/null || { echo "make: Python 3.11 is needed; name it with PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --no-build-isolation --editable ".[dev]"
	@# compiled by every core and without the packages' tests, where pip takes one core and all files; what is left out is compiled when imported
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
	@touch $(STAMP)

demo: setup  ## the main job from nothing: a mock survey, every phase, a report
	dhs demo --out runs/demo

test: setup  ## quick evidence: every notebook and every quick test
	nbdev_test --n_workers 2 --flags ""
	pytest -m "not slow and not gpu" -n 2 --dist loadfile --junitxml=runs/tests.xml tests

full: setup  ## the evidence too heavy for every run
	pytest -m "slow and not gpu" tests

docs: setup  ## the site, in _docs
	python .ci/docs.py

bench: setup  ## figures of speed and accuracy, each beside its alternative, as JSON in runs/bench
	mkdir -p runs/bench
	dhs bench render --json runs/bench/render.json
	dhs bench select --json runs/bench/select.json
	dhs bench loader --json runs/bench/loader.json
	dhs bench brick --json runs/bench/brick.json
	dhs bench sky --json runs/bench/sky.json

prepare: setup  ## format, export, clean, lint, types, contracts; before each commit
	ruff format --quiet nbs tests setup.py
	ruff check --fix nbs tests setup.py
	nbdev_export
	nbdev_clean
	mypy
	lint-imports

release: setup  ## a dry run: sdist and wheel in dist, and the demo from the wheel alone; uploads nothing
	python .ci/release.py

clean:  ## runs and built files; the environment stays
	rm -rf runs build dist _proc _pages _docs *.egg-info
