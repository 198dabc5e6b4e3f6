# Commands for contributors; `make help` lists them. Needs only Python 3.11 or newer.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8080
ARGS ?=
PYTHONS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# The oldest aiohttp that setup.cfg allows, and a yarl of the same age: newer ones reject
# what it passes as a host in sub-applications. Newer pytest-aiohttp needs aiohttp 3.11.
OLDEST := aiohttp==3.9.0 yarl==1.9.4 pytest-aiohttp==1.0.5
PINS :=

# Two installations into the same environment at once would break it.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test heavy axe test-oldest install-oldest test-loops peer fuzz
.PHONY: interrupts storm crash soak lint format docs bench dist extras clean

help:  ## This list.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14
	@echo 'Variables: PYTHON=$(PYTHON) VENV=$(VENV) PORT=$(PORT) ARGS=$(ARGS)'

# With no shell between make and the server, Ctrl-C reaches it once, and make adds no error.
demo: $(VENV)/.installed-demo  ## Run the demo application on PORT.
	@$(BIN)/python -m demo_app --port $(PORT) $(ARGS)

# pytest uses the last of several -m options, so ARGS can select heavy tests too.
test: $(VENV)/.installed-test  ## Run all but the heavy tests; ARGS go to pytest.
	$(BIN)/python -m pytest -m 'not heavy' $(ARGS)

heavy: $(VENV)/.installed-test  ## Run the heavy tests: browsers, gunicorn, brokers, kills.
	$(BIN)/python -m pytest -m heavy $(ARGS)

axe:  ## Fetch axe-core with npm; without it the tests skip accessibility checks.
	npm install --prefix .axe --no-save --no-audit --no-fund axe-core@4

test-oldest: PYTHON = python3.11
test-oldest:  ## Run the tests with the oldest supported aiohttp.
	$(MAKE) test PYTHON='$(PYTHON)' VENV='$(VENV)-oldest' PINS='$(OLDEST)'

install-oldest:
	$(MAKE) '$(VENV)-oldest/.installed-test' PYTHON='$(PYTHON)' VENV='$(VENV)-oldest' \
	    PINS='$(OLDEST)'

test-loops: $(VENV)/.installed-test  ## Run the core's tests on loops of every kind.
	$(BIN)/python -m pytest --loops all $(ARGS)

peer: $(VENV)/.installed-test  ## Run the tests and examples of aiojobs against this package.
	$(BIN)/python -m tests.peer

fuzz: $(VENV)/.installed-test  ## Search interleavings for longer; prints the seed.
	FUZZ=1 $(BIN)/python -m pytest --hypothesis-profile=fuzz $(ARGS) \
	    tests/test_model.py tests/test_durable_task.py tests/test_schedule.py
	$(BIN)/python -m pytest --shuffled 25 $(ARGS)

interrupts: $(VENV)/.installed-test  ## Press Ctrl-C at each line of the core.
	$(BIN)/python -m tests.ctrl_c $(ARGS)

storm: $(VENV)/.installed-test  ## Storm real servers with clients that hang up.
	$(BIN)/python -m tests.storm $(ARGS)

crash: $(VENV)/.installed-test  ## Kill processes that run durable jobs; none is lost.
	$(BIN)/python -m tests.crash $(ARGS)

soak: $(VENV)/.installed-test  ## Run a mixed load for ten minutes; nothing may grow.
	$(BIN)/python -m tests.soak $(ARGS)

lint: $(VENV)/.installed-lint  ## Check style, format and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-lint  ## Sort imports and format the code.
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs  ## Build the documentation into docs/_build/html.
	$(BIN)/sphinx-build -W --keep-going -E -b html docs docs/_build/html

bench: $(VENV)/.installed-bench  ## Run the benchmarks; ARGS go to them.
	$(BIN)/python -m benchmarks $(ARGS)

dist: $(VENV)/.installed-test  ## Build wheel and sdist into dist/, and check them.
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	DIST_DIR=dist $(BIN)/python -m pytest -m packaging

# PYTHONS are the interpreters to try; by default the environment's own.
extras: dist  ## Install the wheel with each extra by itself, and use it.
	$(BIN)/python -m tests.extras $(PYTHONS)

clean:  ## Remove everything that the other targets have made.
	rm -rf .venv .venv-* .axe .demo build dist docs/_build *.egg-info
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The targets are stamp files, written last: an interrupted installation has none.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo 'Python 3.11 or newer is needed: make PYTHON=python3.11' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed-%: setup.cfg | $(VENV)/.created
	$(PIP) install --editable '.[$*]' $(PINS)
	@touch $@
