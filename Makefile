# Parley in a few words: `make run` starts it, `make test` proves it, `make check` reads it.
# Needs python3.11 or newer and make. Settings come from the environment: `PARLEY_PORT=9000 make run`.

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3.14 python3,$(if $(shell command -v $(p)),$(p))))
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517

# What is installed, by stamp: enough to run, and everything. Newer lock files install again.
RUNTIME := .venv/.runtime
STAMP := .venv/.installed
SYNAPSE_STAMP := .venv-synapse/.installed

.PHONY: run test fuzz check bench bench-quick faults soak demo clean lock help .venv

run: $(RUNTIME)  ## start Parley with everything it needs
	@exec $(BIN)/python main.py serve

.venv: $(STAMP)  ## prepare the environment alone

$(RUNTIME): requirements.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "parley: needs Python 3.11 or newer; install it, or set PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv \
		|| { echo "parley: cannot make .venv; install Python's venv module (Debian: python3-venv)" >&2; exit 1; }
	$(PIP) -r requirements.txt
	@touch $(RUNTIME)

$(STAMP): requirements-dev.txt $(RUNTIME)
	$(PIP) -r requirements-dev.txt
	@touch $(STAMP)

test: $(STAMP)  ## the whole suite, on its own PostgreSQL and Redis
	$(BIN)/python -m pytest -n 3 $(ARGS)

fuzz: $(STAMP)  ## the bad input of the suite, much more of it, and other input each time (EXAMPLES=300)
	FUZZ_EXAMPLES=$(or $(EXAMPLES),300) $(BIN)/python -m pytest tests/property -k "bad_" $(ARGS)

check: $(STAMP)  ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) $(if $(SYNAPSE),$(SYNAPSE_STAMP))  ## every speed target against its peers (SYNAPSE=1: Matrix Synapse too)
	$(PIP) -r requirements-bench.txt
	$(BIN)/python -m bench $(if $(SYNAPSE),--synapse) $(ARGS)

$(SYNAPSE_STAMP): requirements-synapse.txt
	@test -x .venv-synapse/bin/pip || $(PYTHON) -m venv .venv-synapse
	.venv-synapse/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-synapse.txt
	@touch $(SYNAPSE_STAMP)

bench-quick: $(STAMP)  ## the same, short
	$(PIP) -r requirements-bench.txt
	$(BIN)/python -m bench --quick

faults: $(STAMP)  ## break every part under load: nothing lost, doubled, reordered (ARGS="--only F1,F5 --seed 7")
	@exec $(BIN)/python -m faults $(ARGS)

soak: $(STAMP)  ## ten minutes of everything at once, and whether anything grew (ARGS="--seconds 60")
	$(PIP) -r requirements-bench.txt
	@exec $(BIN)/python -m soak $(ARGS)

demo: $(STAMP)  ## a scripted minute: three transports, a killed instance, a flushed Redis
	@exec $(BIN)/python -m demo

lock: $(STAMP)  ## resolve requirements*.in again
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header -o requirements.txt requirements.in
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header -o requirements-dev.txt requirements-dev.in
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header -o requirements-bench.txt requirements-bench.in
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header -o requirements-synapse.txt requirements-synapse.in

clean:  ## remove what make made; the data directory stays
	rm -rf .venv .venv-synapse .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache htmlcov .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@grep -hE '^[a-z.-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
