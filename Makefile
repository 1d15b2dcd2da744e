# `make` lists the targets. Variables: PYTHON, EXTRAS, CONSTRAINTS (see scripts/setup.sh), VENV, ARGS.
VENV ?= .venv
export VENV PYTHON EXTRAS CONSTRAINTS

.DEFAULT_GOAL := help
.PHONY: help setup lock demo demo-thin test soak lint fmt docs bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## create .venv and install everything (skipped when nothing changed)
	@scripts/setup.sh

lock: setup  ## renew the versions in requirements/ that setup installs
	$(VENV)/bin/python -m pip install --quiet uv
	scripts/lock.sh

define ABOUT_DEMO
The demo runs the whole pipeline on this machine, on the logs of MovieLens-100K (943 users):
  1. write the logs as a shop would have them                demo/logs
  2. read, check and split them; train a small language model
  3. generate more histories with it, filter them, merge them with the real ones
  4. train recommenders with and without them, compare, and let the gate choose
  5. publish what it chose, recommend to all users           demo/published
Everything is written to the folder demo/ ('make clean' removes it); nothing leaves the machine.
It takes 10 to 20 minutes on two cores. Ctrl-C stops it; the same command goes on where it was.
At the end: a table of what was gained, and the page demo/runs/.../report/report.html.

endef
export ABOUT_DEMO

demo: setup  ## the whole pipeline on MovieLens-100K, into demo/
	@echo "$$ABOUT_DEMO"
	$(VENV)/bin/llmaug datasets ml-100k --to demo/logs
	$(VENV)/bin/python jobs/nightly.py --config configs/demo.yaml --root demo $(ARGS)

demo-thin: setup  ## the same on thin logs: only each user's last events are known
	@echo "$$ABOUT_DEMO"
	$(VENV)/bin/llmaug datasets ml-100k --to demo/logs
	$(VENV)/bin/python jobs/nightly.py --config configs/demo_thin.yaml --root demo $(ARGS)

test: setup  ## run the tests (ARGS='-m "not slow"' to choose)
	$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

soak: setup  ## kills and faults again and again, and longer nights (SOAK=20, over an hour)
	LLMAUG_SOAK=$(or $(SOAK),20) $(VENV)/bin/python -m pytest -q -m "faults or soak" $(ARGS)

lint: setup  ## ruff, mypy and the order of the rooms
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

fmt: setup  ## format the code and sort the imports
	$(VENV)/bin/ruff check --select I --fix .
	$(VENV)/bin/ruff format .

docs: setup  ## build the pages of docs/ into site/ (the first time with pip)
	@test -x $(VENV)/bin/mkdocs || $(VENV)/bin/python -m pip install --quiet \
		--disable-pip-version-check --editable '.[docs]'
	$(VENV)/bin/mkdocs build --strict

BENCHMARKS = generate scale million lm lm_train train lift
bench: setup  ## run the benchmarks that need no data of yours; each ends with a line of JSON
	@for name in $(BENCHMARKS); do \
		echo "== $$name"; $(VENV)/bin/python benchmarks/$$name.py $(ARGS) || exit 1; \
	done

clean:  ## remove caches and what the demo wrote; .venv stays
	rm -rf demo build dist site .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -prune -exec rm -rf {} +
