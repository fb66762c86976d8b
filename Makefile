# `make demo`, `make test` and `make soak` set up .venv first.

PYTHON ?= python3
WORKDIR ?= demo
SEED := $(or $(SEED),$(shell date +%s))
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test soak docs pictures lint format clean

demo: $(VENV)/.installed
	$(BIN)/redundancy run --config digits --workdir $(WORKDIR)
	@echo "Open $(WORKDIR)/report/index.html in a browser."

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# Kills, clusters, real compilations, and random tests with a fresh seed. To have a failure again: make soak SEED=...
soak: $(VENV)/.installed-test
	@echo "make soak SEED=$(SEED)"
	KILL_SEED=$(SEED) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "soak or hypothesis" \
	    --hypothesis-profile=soak --hypothesis-seed=$(SEED) $(PYTEST_ARGS)

# The site, in site/: its reference pages from the code, then all pages, warnings being errors.
docs: $(VENV)/.installed-test
	$(BIN)/python docs/scripts/reference.py
	$(BIN)/zensical build --clean --strict
	@echo "Built site/. To read it with its search: $(BIN)/zensical serve"

# The pictures of the documentation, from the demo's workdir; the one of the report wants Chromium.
pictures: demo
	$(BIN)/python docs/scripts/figures.py $(WORKDIR) --screenshot

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .

format: $(VENV)/.installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is wanted: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml setup.py constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train]"
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) site .cache *.egg-info
