# Two commands: `make demo` and `make test`. Everything is installed into .venv from the lock files.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo flows up down test test-all coverage faults check audit bench bench-parts lock clean

demo: .stamps/core
	$(BIN)/mfpipe demo

flows: .stamps/dev
	@echo "Prefect is in $(BIN); README.md says how to start it."

# Prefect and Dask on this machine's loopback: make up PORT=4300 DASK_PORT=8886 DASHBOARD_PORT=8887
up: .stamps/dev
	@PORT=$(PORT) DASK_PORT=$(DASK_PORT) DASHBOARD_PORT=$(DASHBOARD_PORT) $(BIN)/python -m mfpipe_flows.local up

down: .stamps/dev
	@$(BIN)/python -m mfpipe_flows.local down

test: .stamps/dev
	$(BIN)/python -m pytest -m "not slow"

coverage: .stamps/dev
	$(BIN)/python -m pytest --cov --cov-report=term -m "not slow"

test-all: .stamps/dev
	$(BIN)/python -m pytest --cov --cov-report=term

faults: .stamps/dev
	$(BIN)/python -m pytest tests/faults --timeout=900 -rP --durations=10

check: .stamps/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# --strict: a package that the service knows nothing of, or a service that does not answer, is a failure;
# without it pip-audit skips both and ends with success.
audit: .stamps/dev
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --desc off --requirement requirements/dev.lock

bench: .stamps/dev
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(BENCH)

# Smaller ones on their own: what docs/measurements.md names.
bench-parts: .stamps/core
	$(BIN)/python -m benchmarks.lasso
	$(BIN)/python -m benchmarks.ingest

# Hashes are checked first, then the project itself comes without its dependencies: pip does both
# only in two steps.
.stamps/core: requirements/core.lock pyproject.toml | .stamps/venv
	$(PIP) install --no-deps --require-hashes -r $<
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.stamps/dev: requirements/dev.lock pyproject.toml | .stamps/venv
	$(PIP) install --no-deps --require-hashes -r $<
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ .stamps/core

.stamps/venv:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit( \
	    f"mfpipe needs Python 3.11, 3.12 or 3.13, and {sys.executable} is {v[0]}.{v[1]}; " \
	    "name another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@mkdir -p .stamps && touch $@

# One lock for all supported Pythons, with markers where their versions differ. Needs uv.
LOCK := uv pip compile pyproject.toml requirements/build.in --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-annotate --no-header --quiet
lock:
	$(LOCK) --extra flows --extra dev -o requirements/dev.lock
	$(LOCK) -c requirements/dev.lock -o requirements/core.lock

clean:
	rm -rf $(VENV) .stamps build dist *.egg-info .coverage
