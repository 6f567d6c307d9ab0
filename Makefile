# Every target makes the virtual environment it needs, from python3 >= 3.11 alone.
VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
UV ?= uv
# Each has a Postgres of its own.
PROCESSES ?= 2
BIN := $(VENV)/bin
BOOTSTRAP = $(or $(PYTHON),python3) scripts/bootstrap.py $(VENV)

.DEFAULT_GOAL := help
.PHONY: help demo dev check lint test schemas bench pins

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## Start a server on this machine and show it working (ARGS=…)
	$(BIN)/brolly demo $(ARGS)

dev: $(VENV)/.runtime ## Serve from this checkout (ARGS=…)
	$(BIN)/brolly serve $(ARGS)

check: lint test ## Everything that must hold before a commit, cheapest first

lint: $(VENV)/.dev ## The static half of check
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python scripts/shape.py
	$(BIN)/python scripts/schemas.py --check
	$(BIN)/python scripts/plugins.py --check

test: $(VENV)/.dev ## Run the tests (ARGS="tests/unit -k name", PROCESSES=4)
	@$(BIN)/python scripts/chromium.py
	$(BIN)/pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

schemas: $(VENV)/.dev ## Write schemas/ and plugins/ anew from the code
	$(BIN)/python scripts/schemas.py
	$(BIN)/python scripts/plugins.py

bench: $(VENV)/.dev ## Measure (ARGS=…)
	$(BIN)/python -m bench $(ARGS)

PIP_COMPILE = $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate \
	--custom-compile-command 'make pins'
pins: ## Resolve constraints*.txt anew from pyproject.toml (needs uv)
	echo 'hatchling>=1.27' | $(PIP_COMPILE) $(ARGS) --output-file constraints.txt pyproject.toml - >/dev/null
	$(PIP_COMPILE) $(ARGS) --extra dev --constraint constraints.txt --output-file constraints-dev.txt \
		$$(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p' constraints.txt) pyproject.toml >/dev/null

$(VENV)/.runtime: pyproject.toml constraints.txt scripts/bootstrap.py
	@$(BOOTSTRAP) runtime

$(VENV)/.dev: $(VENV)/.runtime constraints-dev.txt
	@$(BOOTSTRAP) dev
