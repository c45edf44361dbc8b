# make demo    simulated recordings through the whole workflow, and a report to open
# make demo-weights  train the demo's model anew, on simulated hearts
# make test    the tests; make test-fast leaves out what takes minutes
# make coverage  the quick tests, and which lines and branches of ecgpipe/ they do not run
# make check   style and types
# make bench   benchmarks of this machine: one table, and JSON in benchmarks/results
# make gpu     eight minutes on a machine with a GPU: parity, rates, tests; JSON in benchmarks/results
# make gpu-bundle  a folder to carry to such a machine where it has no network
# make fuzz    coverage-guided fuzzing of the readers, a minute each
# make notebook  run docs/notebook.ipynb and store what its cells show; Jupyter is not needed
# make docs    write the files that are generated from the settings' definition
# make site    the website of docs/ in site/, with search
# make screenshots  the demo, and the pictures of README.md and docs/ from its report

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo demo-weights test test-fast coverage check bench gpu gpu-bundle fuzz docs notebook site screenshots clean

# The demo's model, trained anew: ecgpipe/selftest/demo_weights, minutes on two cores. The same machine gives the same bytes.
demo-weights: .venv/dev
	$(BIN)/python -m benchmarks.demo_weights

demo: .venv/demo
	$(BIN)/python -m ecgpipe demo --outdir demo
	$(BIN)/snakemake --workflow-profile profiles/demo
	@echo "Open $(CURDIR)/demo/results/report.html"

# Three processes whatever the cores: most tests wait for Snakemake, which has the cores for its jobs, for SLURM or for
# Chromium. A file's tests stay
# together, because they share a run.
test: .venv/dev
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 60

test-fast: .venv/dev
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile

# Of what the quick tests run, without what Snakemake starts in the others; files that they run whole are left out.
coverage: .venv/dev
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile --cov --cov-report term-missing:skip-covered

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint --config input=tests

bench: .venv/dev
	$(BIN)/python -m benchmarks.run

# With the Python and PyTorch that the machine has: PYTHON=/path/to/python make gpu. Nothing is installed.
gpu:
	$(PYTHON) -m benchmarks.gpu

# For that machine's version of Python, 3.11 to 3.13. REFERENCE has real recordings and reference numbers, if it is there.
GPU_PYTHON ?= 3.12
REFERENCE ?= ../shared/reference
gpu-bundle: .venv/dev
	$(BIN)/python -m benchmarks.gpu_bundle --python $(GPU_PYTHON) --reference $(REFERENCE)

# Each reader that parses by itself, for FUZZ_S seconds; what breaks one is left behind as crash-*.
FUZZ_S ?= 60
fuzz: .venv/dev
	$(PIP) --editable '.[fuzz]'
	for target in wfdb detect csv mat filling cardiosoft ishne; do \
	  $(BIN)/python tests/fuzz/readers.py $$target -max_total_time=$(FUZZ_S) -max_len=4096 -dict=tests/fuzz/dictionary || exit 1; \
	done

docs: .venv/dev
	$(BIN)/python -m ecgpipe config

site: .venv/dev
	$(BIN)/python -m benchmarks.build_site

# Needs Chromium (apt-get install chromium). docs/images/NAME.png, a few seconds after the demo.
screenshots: demo .venv/dev
	$(BIN)/python -m benchmarks.screenshots

notebook: .venv/dev
	$(BIN)/python -m benchmarks.notebook

# Each stamp is newer than what it installed from.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ecgpipe needs Python 3.11 or newer; say which with PYTHON=/path/to/python3.11 make ..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[demo,formats]'
	touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[demo,dev,formats,slurm]'
	touch $@ .venv/demo

clean:
	rm -rf .venv demo site .snakemake
