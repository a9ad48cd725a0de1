# Every task a person does. `make help` lists them.
#
# Settings: TOPOLOGY (dev), SUITE (trixie), HOST, PROVIDER; see README.md.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
SETTINGS := TOPOLOGY HOST SUITE PROVIDER TEST PILLAR SLS CMD SERVICE REQUEST SINCE FOLLOW VERSION YES SECRET
# Taken as they were typed: a `$` in CMD or PILLAR is the machine's, not make's.
$(foreach name,$(SETTINGS),$(eval override $(name) := $$(value $(name))))
export $(SETTINGS)
VENV := .venv
CONTROL := $(VENV)/bin/python -m control

# --- for people ---------------------------------------------------------------------------------

.PHONY: help
help: ## This list
	@echo 'make COMMAND [TOPOLOGY=dev] […]'
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
	    awk -F'\t' '{ printf "  %-12s %s\n", $$1, $$2 }'

.PHONY: up
up: $(VENV)/.control ## Machines up and converged; ends with the URL [TOPOLOGY=dev|dev12] [SUITE=trixie|bookworm]
	@$(CONTROL) up

.PHONY: url
url: $(VENV)/.control ## The https URL, alone on stdout
	@$(CONTROL) url

.PHONY: status
status: $(VENV)/.control ## Every service: unit, version, port, health; fails if one is unwell
	@$(CONTROL) status

.PHONY: apply
apply: $(VENV)/.control ## Converge again [HOST=h|local] [TEST=1] [SLS=haproxy] [PILLAR='{…}']
	@$(CONTROL) apply

.PHONY: rotate
rotate: $(VENV)/.control ## A new value for a secret, without a moment lost [SECRET=redis-counter]
	@$(CONTROL) rotate

.PHONY: ssh
ssh: $(VENV)/.control ## A shell as root, or one command [HOST=h] [CMD='…']
	@$(CONTROL) ssh

.PHONY: down
down: $(VENV)/.control ## Remove the machines of a topology
	@$(CONTROL) down

.PHONY: artifact
artifact: $(VENV)/.control ## dist/counter-VERSION.tar.gz and its sha256, reproducible
	@$(VENV)/bin/python webapp/build.py --out dist

.PHONY: lint
lint: $(VENV)/.dev ## Style of Python, shell, YAML, states; schemas of CI and pillar
	@lint/run

.PHONY: test-unit
test-unit: $(VENV)/.dev tests-need ## Tests that need no machine (under a minute or two)
	@$(VENV)/bin/python -m pytest webapp/tests tests/unit $(ARGS)

.PHONY: test
test: $(VENV)/.dev tests-need ## Everything, on real machines of Debian 13 and 12
	@$(VENV)/bin/python -m pytest webapp/tests tests/unit tests/machine $(ARGS)

.PHONY: lock
lock: $(VENV)/.dev ## Refresh every hash-locked list of packages
	@lint/lock

.PHONY: clean
clean: ## Remove what was built here (not the machines: make down)
	@rm -rf dist site .cache .pytest_cache .ruff_cache .mypy_cache $(VENV)

# Named in the design, served by later work: they say so instead of failing strangely.
TO_COME := test-faults deploy rollback logs dashboard publish releases cloud-plan cloud-up \
    cloud-down restore bench docs
.PHONY: $(TO_COME)
$(TO_COME):
	@echo "make $@: still to come; see CHANGELOG.md for what is there" >&2; exit 2

# --- what they need -----------------------------------------------------------------------------

# One that was killed while being made has a python but no pip.
WHOLE_VENV = $(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)

# A virtual environment with the interpreter on the PATH; Debian keeps `venv` in a package apart.
$(VENV)/bin/python:
	@if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	    echo "Python 3.11 or later is needed, $$($(PYTHON) --version) was found" >&2; exit 2; fi
	@if ! $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then \
	    echo "installing python3-venv (the project's Python packages stay in $(VENV))"; \
	    lab/apt python3-venv; fi
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.control: requirements/control.lock bootstrap/install.py | $(VENV)/bin/python
	@echo "installing the controller's Python packages into $(VENV)"
	@$(WHOLE_VENV)
	@$(VENV)/bin/python bootstrap/install.py $< && touch $@

$(VENV)/.dev: requirements/dev.lock bootstrap/install.py | $(VENV)/bin/python
	@echo "installing the Python packages for lint and tests into $(VENV)"
	@$(WHOLE_VENV)
	@$(VENV)/bin/python bootstrap/install.py $<
	@touch $@ $(VENV)/.control

# Programs that the tests use: a real Redis, and the eyes of an outsider.
TEST_PACKAGES := redis-server openssl curl testssl.sh nmap fail2ban
.PHONY: tests-need
tests-need:
	@missing=; for package in $(TEST_PACKAGES); do \
	    dpkg-query -W -f='$${db:Status-Abbrev}' $$package 2>/dev/null | grep -q '^ii' || missing="$$missing $$package"; \
	done; if [ -n "$$missing" ]; then \
	    echo "installing what the tests use:$$missing"; lab/apt $$missing; fi
