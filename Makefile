# The two commands of the README, and what keeps the pins fresh.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# Tests that look for the machine's Ray nodes, and so run beside none.
ALONE := tests/sweeps/test_cluster.py tests/deploy

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: sweep test test-faults test-clusters test-services test-ui constraints clean

sweep: $(VENV)/.installed
	$(BIN)/python run_sweep.py --cluster auto $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile tests/slim tests/analysis \
		tests/sweeps tests/faults $(ALONE:%=--ignore=%) $(ARGS)
	$(BIN)/pytest $(ALONE) $(ARGS)

# Kills, outages, lost nodes and full disks, in full number; prints what they cost.
test-faults: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/pytest -m faults -rP --timeout 7200 tests/faults $(ARGS)
	OMP_NUM_THREADS=1 FUZZ=10000 $(BIN)/pytest -rP --timeout 7200 tests/faults/test_fuzz.py

# Whole runs on nodes of their own, as Slurm starts them, and in a bucket.
test-clusters: $(VENV)/.installed-test
	$(BIN)/pytest -m clusters tests/deploy tests/sweeps $(ARGS)

# `mlflow server` on a PostgreSQL of its own: 64 writers at once, and a run that logs in; prints what it took.
test-services: $(VENV)/.installed-services
	$(BIN)/pytest -rP tests/services $(ARGS)

# MLflow's own page over a real run, in Debian's Chromium; pictures are left in build/ui.
test-ui: $(VENV)/.installed-ui
	$(BIN)/pytest tests/ui $(ARGS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-ui: pyproject.toml constraints.txt | $(VENV)/bin/python
	command -v chromium || command -v google-chrome || \
		{ $(SUDO) apt-get update && $(SUDO) apt-get install --yes --no-install-recommends chromium; }
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,ui]'
	touch $@ $(VENV)/.installed $(VENV)/.installed-test

$(VENV)/.installed-services: pyproject.toml constraints.txt | $(VENV)/bin/python
	ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || \
		{ $(SUDO) apt-get update && $(SUDO) apt-get install --yes --no-install-recommends postgresql; }
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,services]'
	touch $@ $(VENV)/.installed $(VENV)/.installed-test

# Resolve the newest versions that pyproject.toml admits, in an environment of their own. Run it with an early
# Python 3.11 (Debian 12 has 3.11.2): some packages ask for a later patch release, and pins must install with any.
constraints:
	rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	build/constraints/bin/pip install --quiet '.[test,pictures,services,ui,benchmarks]'
	build/constraints/bin/pip freeze --exclude vit-slim-sweeps > constraints.txt

clean:
	rm -rf $(VENV) build
