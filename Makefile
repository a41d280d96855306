# Everything runs in .venv, which `make setup` makes from requirements.lock; nothing else is installed anywhere.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := run
.ONESHELL:
.PHONY: run use test test-slow reproduce serve stop lint docs reference setup

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export OMP_WAIT_POLICY := PASSIVE
export TOKENIZERS_PARALLELISM := false
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

# The first of these that runs and is new enough.
PYTHONS := python3.11 python3 python3.12
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))

run: setup .dvc/plots.html  ## the embedded pipeline, end to end, then its result table
	python -m libretto run

use: setup  ## puts a recipe into params.yaml: make use RECIPE=slam-asr; lists them without one
	python -m libretto use $(RECIPE)

test: setup  ## what needs no server, no accelerator and little time
	python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not slow and not gpu"

test-slow: setup  ## servers, trainings, kills; three at once on two cores, since servers and kills wait for most of their time
	python -m pytest -n 3 --dist loadfile --verbose --durations=20 -m "slow and not gpu"

reproduce: setup  ## whether the last commit gives one dvc.lock however it is run, at smoke size
	python -m bench.reproduce

serve: setup  ## server, worker and deployments of prefect.yaml on this machine
	python -m flows.serve

stop: setup  ## ends them
	python -m flows.serve --stop

lint: setup
	ruff check .
	ruff format --check .
	mypy
	bandit --quiet --recursive --severity-level medium --configfile pyproject.toml components libretto flows bench

docs: setup  ## the documentation site, docs/_build/html; a warning is an error
	python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet --builder html docs docs/_build/html

reference: setup  ## what is written from the code: pages of docs/reference, the costs in flows/recipes
	PYTHONPATH=. python docs/reference.py docs/reference
	python docs/commands.py
	PYTHONPATH=. python docs/recipes.py

.dvc/plots.html: requirements.lock | setup  ## what `dvc plots` needs to draw without a network
	python -m flows.plots

setup:  ## .venv, built again only where requirements.lock differs from what it was built from
	@if cmp -s requirements.lock .venv/requirements.lock && [ -x .venv/bin/libretto ]; then exit 0; fi
	if ! cmp -s requirements.lock .venv/requirements.lock; then
	    for python in $(PYTHONS); do
	        if $$python -c '$(FITS)' 2>/dev/null; then break; else python=; fi
	    done
	    if [ -z "$$python" ]; then
	        echo "Python 3.11 or 3.12 is needed; none of $(PYTHONS) is one: install it and run make again." >&2
	        exit 1
	    fi
	    echo "making .venv with $$($$python --version) …"
	    $$python -m venv --clear .venv
	    install=".venv/bin/python -m pip install --quiet --no-deps"
	    $$install -r requirements-cpu.lock 2>/dev/null || $$install -r requirements-cuda.lock
	    $$install -r requirements.lock
	    cp requirements.lock .venv/requirements.lock
	fi
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .  # the command `libretto`
