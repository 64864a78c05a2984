# You need Python 3.11 or later, and make. Each target makes .venv if it is missing.
#
#   PYTHON=python3.12 make test      with another Python (only before .venv exists)
#   make test ARGS="-k merkle"       more arguments for pytest
#   KEEP=1 make demo                 keep the demo's daemon running, with its files
#   make clean                       start over

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SETUP := pyproject.toml clients/python/pyproject.toml
ARGS ?=
KEEP ?=
export KEEP

.DEFAULT_GOAL := help
.PHONY: help demo certs test bench lint gate proto sbom clean
# A failed installation leaves no stamp that says it worked.
.DELETE_ON_ERROR:

help:  ## Show this list
	@sed -n 's/^\([a-z]*\):.*##\(.*\)/  make \1 \2/p' $(MAKEFILE_LIST) | awk '{printf "  %-4s %-6s", $$1, $$2; $$1 = $$2 = ""; print $$0}'

demo: $(VENV)/.server  ## Run a daemon through a consent's life, from grant to proof, and show it
	$(BIN)/python -m consentd.demo

certs: $(VENV)/.server  ## Make certificates for development in .certs, never for production
	$(BIN)/consentd certs --dev .certs $(ARGS)

test: $(VENV)/.dev  ## Run all tests
	$(BIN)/python -m pytest -n 2 $(ARGS)

bench: $(VENV)/.bench  ## Measure; prints a table and writes JSON to benchmarks/out
	$(BIN)/python -m benchmarks $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m benchmarks --peers)  # those that are installed; others are named

lint: $(VENV)/.dev  ## Check style, types, the floors, the proto files and the code made from them
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check
	$(BIN)/buf lint proto
	$(BIN)/python proto/breaking.py
	@command -v cargo > /dev/null || echo "cargo is not installed: consentd/gate is not checked"
	if command -v cargo > /dev/null; then cd consentd/gate && cargo fmt --check && \
	  cargo clippy --locked --all-targets --target-dir ../../build/gate -- -D warnings; fi

gate:  ## Build the gate, build/gate/release/consentd-gate; needs Cargo 1.85
	cd consentd/gate && cargo build --locked --release --package consentd-gate --target-dir ../../build/gate

proto:  ## Generate consentd/v1 from proto/
	$(PYTHON) proto/generate.py

sbom: $(VENV)-sbom/.installed  ## Write dist/sbom.json, all packages of an installation, and check their licences
	mkdir -p dist
	$(VENV)-sbom/tool/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.json \
	  $(VENV)-sbom/bin/python
	$(PYTHON) .ci/licences.py dist/sbom.json

clean:  ## Remove .venv and the tools' files
	rm -rf $(VENV) $(VENV)-sbom .venv-proto build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .demo .certs

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "consentd needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.dev: $(BIN)/python $(SETUP)
	$(PIP) -e '.[dev]' -e clients/python
	@touch $@ $(VENV)/.server

$(VENV)/.server: $(BIN)/python $(SETUP)
	$(PIP) -e '.[server]' -e clients/python
	@touch $@

$(VENV)/.bench: $(BIN)/python $(SETUP)
	$(PIP) -e '.[server,bench]' -e clients/python
	@touch $@ $(VENV)/.server

# What an installation has, without the tools of development; and beside it the tool that lists it.
$(VENV)-sbom/.installed: $(SETUP)
	$(PYTHON) -m venv $(VENV)-sbom
	$(VENV)-sbom/bin/python -m pip install --quiet --disable-pip-version-check '.[server,fhir,hsm]' ./clients/python
	$(VENV)-sbom/bin/python -m pip uninstall --quiet --yes setuptools pip
	$(PYTHON) -m venv $(VENV)-sbom/tool
	$(VENV)-sbom/tool/bin/python -m pip install --quiet --disable-pip-version-check 'cyclonedx-bom>=7,<8'
	@touch $@
