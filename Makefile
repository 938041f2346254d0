# Everything a newcomer or a developer runs. `make demo` and `make test` each start from nothing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TOOLS := runs/tools
SHARED := runs/test
QUICK = DHS_TOY=$(CURDIR)/$(SHARED)/runs/toy pytest -m "not slow and not gpu" -n 2 --dist loadfile tests
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_NUM_THREADS ?= 1
# Where the environment forbids it, each of some hundred processes would compile the whole library for itself.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test toy hooks one full shuffled mutants audit docs bench export update prepare tidy types release clean
help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/  -/'

setup: $(STAMP)  ## the environment alone, in .venv
$(STAMP): constraints.txt settings.ini setup.py
	@command -v $(PYTHON) >/dev/null || { echo "make: Python 3.11 is needed; name it with PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@# a newer pip than Python's own resolves the packages in a third of the time
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip setuptools wheel
	@# what is imported is compiled then: two files of three never are; a wheel made here (pyspark's, 450 MB) is not compressed to be unpacked
	DIST_EXTRA_CONFIG=$(CURDIR)/.ci/wheels.cfg $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --no-build-isolation --editable ".[dev]"
	@touch $(STAMP)

hooks: setup  ## once per clone: git merges notebooks cell by cell
	git config --local merge.nbdev-merge.name "notebooks, cell by cell"
	git config --local merge.nbdev-merge.driver "$(CURDIR)/$(BIN)/nbdev_merge %O %A %B %P"

demo: setup  ## the main job from nothing: a mock survey, every phase, a report
	dhs demo --out runs/demo

test: toy  ## quick evidence: every notebook and every quick test
	@# notebooks that would make a toy run of their own find a copy where they look (without its logs, which are notebooks and no pages)
	for room in phases tutorials; do mkdir -p nbs/$$room/runs && { [ -e nbs/$$room/runs/toy ] || tar -c -C $(SHARED)/runs --exclude=logs toy | tar -x -C nbs/$$room/runs; }; done
	nbdev_test --n_workers 2 --flags ""
	$(QUICK) --junitxml=runs/tests.xml

toy: setup  # one toy run for all tests
	rm -rf $(SHARED) && mkdir -p $(SHARED) && cd $(SHARED) && dhs demo --recipe toy --out runs/toy --workers 2

one: setup  ## one test, or one notebook: make one T=tests/test_stats_metrics.py::test_x, make one T=nbs/lensing/psf.ipynb
	@test -n "$(T)" || { echo "make one: name what to run, such as T=tests/test_stats_metrics.py or T=nbs/lensing/psf.ipynb" >&2; exit 2; }
	$(if $(filter %.ipynb,$(T)),nbdev_test --path $(T) --n_workers 0 --flags "",pytest $(T))

full: setup  ## the evidence too heavy for every run
	nbdev_test --n_workers 2 --flags slow
	pytest -m "slow and not gpu" tests
	$(MAKE) --no-print-directory shuffled
	$(MAKE) --no-print-directory mutants
	$(MAKE) --no-print-directory audit

shuffled: toy  ## the quick tests ten times, each time in another order
	for order in 1 2 3 4 5 6 7 8 9 10; do $(QUICK) --random-order --random-order-seed=$$order || exit 1; done

mutants: $(TOOLS)/.installed  ## small faults put into the library, and how many of them the tests notice
	python .ci/mutants.py

audit: $(TOOLS)/.installed  ## known weaknesses of the packages that the environment holds; needs the network
	python .ci/audit.py $(TOOLS)/bin/pip-audit

$(TOOLS)/.installed: setup .ci/tools.txt
	@test $@ -nt .ci/tools.txt || { python -m venv --clear $(TOOLS) && $(TOOLS)/bin/python -m pip install --quiet --requirement .ci/tools.txt && touch $@; }

docs: setup  ## the site, in _docs
	python .ci/docs.py

bench: setup  ## figures of speed and accuracy, each beside its alternative, as JSON in runs/bench
	mkdir -p runs/bench
	dhs bench render --json runs/bench/render.json
	dhs bench select --json runs/bench/select.json
	dhs bench loader --json runs/bench/loader.json
	dhs bench brick --json runs/bench/brick.json
	dhs bench sky --json runs/bench/sky.json

export: setup  ## the library from its notebooks, with Parameters, Returns and Raises in the docstrings
	nbdev_export
	python .ci/docstrings.py

update: setup  ## the other way: what was changed in one exported file, back to its notebook: make update F=dark_halo_scope/lensing/psf.py
	@test -n "$(F)" || { echo "make update: name the file, such as F=dark_halo_scope/lensing/psf.py" >&2; exit 2; }
	python .ci/docstrings.py --strip
	nbdev_update --fname $(F)
	$(MAKE) --no-print-directory export

prepare: tidy types  ## format, export, clean, lint, types, contracts; before each commit

tidy: setup  ## what `prepare` writes: format, export, clean, lint
	ruff format --quiet nbs tests setup.py
	ruff check --fix nbs tests setup.py
	$(MAKE) --no-print-directory export
	nbdev_clean

types: setup  ## what it only looks at: types, contracts
	mypy
	lint-imports

release: $(TOOLS)/.installed  ## sdist, wheel, bill of materials and their hashes in dist, and the demo from the wheel alone; uploads nothing; REHEARSE=--rehearse goes on with changes not yet released
	python .ci/release.py --tools $(TOOLS)/bin $(REHEARSE)

clean:  ## runs and built files; the environment stays
	rm -rf runs build dist _proc _pages _docs *.egg-info
