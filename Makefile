# make demo    simulated recordings through the whole workflow, and a report to open
# make test    the tests; make test-fast leaves out what takes minutes
# make check   style and types
# make bench   benchmarks
# make docs    write the files that are generated from the settings' definition

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-fast check bench docs clean

demo: .venv/demo
	$(BIN)/python -m ecgpipe demo --outdir demo
	$(BIN)/snakemake --workflow-profile profiles/demo
	@echo "Open $(CURDIR)/demo/results/report.html"

test: .venv/dev
	$(BIN)/python -m pytest

test-fast: .venv/dev
	$(BIN)/python -m pytest -m "not slow"

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint --config input=tests

bench: .venv/dev
	$(BIN)/python benchmarks/forward.py
	$(BIN)/python benchmarks/memory.py

docs: .venv/dev
	$(BIN)/python -m ecgpipe config

# Each stamp is newer than what it installed from.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ecgpipe needs Python 3.11 or newer; say which with PYTHON=/path/to/python3.11 make ..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[demo]'
	touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[demo,dev,slurm]'
	touch $@ .venv/demo

clean:
	rm -rf .venv demo .snakemake
