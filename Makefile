# Everything a person types. `make` alone prints this list.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Three at a time, also on two cores: most tests wait for sockets and timers.
PYTEST := $(BIN)/pytest -q -n 3 --dist worksteal -m 'not soak and not timed'
TIMED  := $(BIN)/pytest -q -m timed
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install install-dev run demo test soak check format bench docs proto locks clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed-run ## make .venv and install the locked dependencies

install-dev: $(VENV)/installed-dev ## the same with what tests and checks need

run: install ## the server if RPC_URL or GEYSER_URL is set (environment or .env), else the demo
	@exec $(BIN)/account-socket run

demo: install ## a local node replaying a recording, and the server on it: no network, no key
	@exec $(BIN)/account-socket demo

test: install-dev ## the whole test suite
	$(PYTEST)
	$(TIMED)

soak: install-dev ## the tests that take minutes
	$(BIN)/pytest -m soak -s

check: install-dev ## format, lint, types, tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)
	$(TIMED)

format: install-dev ## put every file into the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install-dev ## the benchmarks, about ten minutes; `make bench-fanout` … runs one of them
	$(BIN)/python bench/run.py

bench-%: install-dev
	$(BIN)/python bench/run.py $*

bench-big: install-dev ## a database of 10 million rows that `make bench` uses from then on (4 GB)
	$(BIN)/python bench/run.py --make-big

docs: install ## write docs/settings.md and .env.example from the table of settings
	$(BIN)/python docs/generate.py

proto: install-dev ## write the Python code of the Geyser interface from its .proto
	$(BIN)/python -m grpc_tools.protoc -I src --python_out=src --pyi_out=src \
	  src/account_socket/sources/geyser_proto/geyser.proto

# Names, versions and hashes only: an install takes them from whatever index the machine is set up with.
UV_VERSION := 0.13.9
LOCK := build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header --extra server pyproject.toml requirements/build.in

locks: ## renew requirements/*.txt to the newest versions that pyproject.toml allows
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check install --quiet uv==$(UV_VERSION)
	env -u PIP_FIND_LINKS $(LOCK) -o requirements/run.txt
	env -u PIP_FIND_LINKS $(LOCK) --group dev -c requirements/run.txt -o requirements/dev.txt

clean: ## delete what these commands made: .venv, caches, build
	rm -rf $(VENV) build dist tests/node/node_modules clients/typescript/node_modules clients/typescript/dist \
	  .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) is not installed; on Debian and Ubuntu: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "account-socket needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	       "With another one installed: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps make the second call start at once. The build backend is locked too, hence no build isolation.
$(VENV)/installed-run: requirements/run.txt pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --require-hashes -r requirements/run.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/installed-dev: requirements/dev.txt tests/node/package-lock.json clients/typescript/package-lock.json \
		$(VENV)/installed-run
	$(PIP) install --quiet --require-hashes -r requirements/dev.txt
	@if command -v npm >/dev/null; then for each in tests/node clients/typescript; do \
	  npm ci --prefix $$each --silent --no-audit --no-fund --ignore-scripts || exit; done; \
	else echo "npm is not installed: the tests of Node.js clients will be skipped"; fi
	@touch $@
