# `make` alone lists the targets. PYTHON chooses the interpreter that .venv is made with; ARGS goes to pytest or the bench.
PYTHON ?= python3
ARGS ?=

# Tests and bench start hundreds of processes: without its bytecode kept, each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
SOURCES := $(shell find src -type f -not -path '*/__pycache__/*')
COMPILED := PYTHONPATH=$(CURDIR)/.compiled
# One more than there are cores: many a test waits for a gateway and computes nothing.
PROCESSES := $(shell expr $$(nproc 2>/dev/null || echo 2) + 1)
NATIVE := native/Cargo.toml native/Cargo.lock $(wildcard native/src/*.rs) native/build_hook.py
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet
LOCK := uv pip compile --universal --python-version 3.11 --upgrade \
	--generate-hashes --no-emit-index-url --no-header --annotation-style line --quiet

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-native test-plain test-compiled test-slow test-lightning test-examples test-package test-proxies test-deploy test-browser test-mcp docs proofs soak check format bench bench-quick lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## make .venv from the lock file; does nothing when it is up to date
	@:

demo: setup ## the whole story in under 20 s: gateway, tokens, refusals, the delegation tree
	@$(BIN)/tolsey demo

test: setup ## run the tests but the slow ones; ARGS="-k name" chooses some
	@$(BIN)/python -m pytest -q -m "not slow and not lightning and not examples and not package and not deploy and not proxies and not browser and not mcp" -n $(PROCESSES) --dist loadfile $(ARGS)

test-native: ## lint and test the compiled wire by itself; needs cargo
	@cd native && if cargo fmt --version >/dev/null 2>&1; then cargo fmt --check; else echo "cargo has no fmt here"; fi
	@cd native && if cargo clippy --version >/dev/null 2>&1; then cargo clippy --quiet --release --locked --all-targets -- -D warnings; else echo "cargo has no clippy here"; fi
	@cd native && cargo test --quiet --release --locked

test-plain: setup ## the dialogues with a gateway once more, without the compiled wire
	@TOLSEY_NO_NATIVE=1 $(BIN)/python -m pytest -q -m "not slow" -n auto --dist loadfile tests/test_gateway_*.py tests/test_http_clients.py tests/test_law_2_for_real.py $(ARGS)

test-compiled: .compiled/.done ## the ledger and a gateway once more, compiled as in a wheel
	@$(COMPILED) $(BIN)/python -m pytest -q -m "not slow and not interpreted" -n auto --dist loadfile tests/test_rules*.py tests/test_ledger*.py tests/test_book*.py tests/test_sqlite*.py tests/test_simulation.py tests/test_fsck.py tests/test_audit.py tests/test_kernel_sync.py tests/test_replay.py tests/test_postgres.py tests/test_postgres_faults.py tests/test_audit_postgres.py tests/test_gateway_failures.py tests/test_gateway_prices.py tests/test_llm.py tests/test_llm_fuzz.py tests/test_model_prices.py tests/test_fast_path*.py tests/test_law_2_for_real.py tests/test_metrics.py tests/test_compiled.py $(ARGS)

test-slow: setup ## run the slow tests: kills, failover, long streams, memory
	@$(BIN)/python -m pytest -q -m slow $(ARGS)

test-lightning: setup ## real payments between two lnd nodes, by other people's clients too; builds lnd and Aperture once, needs Go
	@$(BIN)/python -m pytest -q -m lightning $(ARGS)

test-examples: setup examples/$(VENV)/.locked ## run examples/ against a local gateway and local providers
	@$(BIN)/python -m pytest -q -rP tests/test_examples.py $(ARGS)

test-browser: setup ## use the dashboard in a headless Chromium, which must be installed
	@$(BIN)/python -m pytest -q -m browser tests/test_dashboard_browser.py $(ARGS)

test-proxies: setup ## ask beside real proxies: nginx and HAProxy from Debian, the others as wheels
	@$(BIN)/python -m pytest -q -m proxies tests/test_proxies.py $(ARGS)

test-mcp: setup tests/mcp/$(VENV)/.locked ## MCP with other people's servers, clients and checks, from npm and PyPI
	@$(BIN)/python -m pytest -q -m mcp tests/test_mcp_real.py $(ARGS)

test-package: setup ## build wheel and sdist, install each with pip alone, run the demo
	@$(BIN)/python -m pytest -q -m package tests/test_package.py $(ARGS)

test-deploy: setup deploy/$(VENV)/.locked ## check deploy/ with the tools that those files are for
	@$(BIN)/python -m pytest -q -m deploy tests/test_deploy.py $(ARGS)

docs: setup docs/$(VENV)/.locked ## build the docs site in .site/html; a link that leads nowhere is an error
	@$(BIN)/python docs/assemble.py .site/pages
	@NO_MKDOCS_2_WARNING=1 docs/$(BIN)/mkdocs build --strict --quiet

proofs: setup ## visit every state of the ledger's model, half a minute
	@$(BIN)/python -m proofs --thorough $(ARGS)

soak: setup ## simulate the ledger for TOLSEY_SOAK_MINUTES (10); ARGS=n is the first seed
	@$(BIN)/python -m tests.soak $(ARGS)

check: setup ## lint, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## rewrite the code in the project's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: .compiled/.done ## measure, as ratios in one run
	@$(COMPILED) $(BIN)/python -m bench $(ARGS)

bench-quick: .compiled/.done ## the same in a few seconds: that it runs, not what it says
	@$(COMPILED) $(BIN)/python -m bench --quick $(ARGS)

lock: ## write the lock files anew with the newest versions; needs uv
	@command -v uv >/dev/null || { echo "make lock needs uv on the PATH" >&2; exit 1; }
	@$(LOCK) pyproject.toml --group dev --output-file requirements-dev.lock
	@$(LOCK) pyproject.toml --constraint requirements-dev.lock --output-file requirements.lock
	@$(LOCK) examples/requirements.in --output-file examples/requirements.lock
	@$(LOCK) deploy/requirements.in --output-file deploy/requirements.lock
	@$(LOCK) docs/requirements.in --output-file docs/requirements.lock
	@$(LOCK) tests/mcp/requirements.in --output-file tests/mcp/requirements.lock

clean: ## remove .venv, caches and build output
	@rm -rf $(VENV) examples/$(VENV) deploy/$(VENV) docs/$(VENV) tests/mcp/$(VENV) .site js/node_modules tests/mcp/node_modules .bench .compiled build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
	@find src tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The package as a wheel has it, to be run from here: what mypyc compiles beside what it was compiled from.
.compiled/.done: $(VENV)/.installed $(SOURCES) native/compiled.py
	@rm -rf .compiled && mkdir .compiled && cp -R src/tolsey .compiled/tolsey
	@echo "compiled: a minute or two, once for each change of src/ ..."
	@$(BIN)/python native/compiled.py .compiled >.compiled/log 2>&1 || { tail -n 5 .compiled/log; echo "compiled: nothing; it is run as it is"; }
	@touch $@

# A changed lock file makes .venv anew, so that nothing is left over from the old one.
$(VENV)/.locked: requirements-dev.lock
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the PATH; try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Tolsey needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) lacks the modules venv and ensurepip; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "setup: making $(VENV) and installing the locked packages (once, under a minute) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@

%/$(VENV)/.locked: %/requirements.lock
	@echo "$*: making $*/$(VENV) and installing the locked packages (once, under a minute) ..."
	@$(PYTHON) -m venv --clear $*/$(VENV)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $*/$(BIN)/python -m pip install --quiet --require-hashes -r $<
	@touch $@

# The wire of the fast path is compiled along, where there is cargo; without it the rest is as it is.
$(VENV)/.installed: $(VENV)/.locked pyproject.toml $(NATIVE)
	@$(PIP) --no-build-isolation --no-deps -e .
	@test -e src/tolsey/gateway/_wire.so || echo "setup: the wire was not compiled, so there is no fast path (docs/operating.md, The fast path)"
	@touch $@
	@echo "setup: done"
