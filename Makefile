# Every task a person does. `make help` lists them.
#
# Settings: TOPOLOGY (dev), SUITE (trixie), HOST, PROVIDER; see README.md.

SHELL := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))lab/shell
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# What the caller happens to have set for a program that is used here changes nothing; the rest is in
# salt/_executors/environment.py.
unexport $(filter PYTHON% GIT_%,$(.VARIABLES)) BASH_ENV BASHOPTS SHELLOPTS CDPATH LANGUAGE POSIXLY_CORRECT
export LC_ALL := C.UTF-8

# The system's own, where it will do: apt keeps it safe, and Debian's builds are optimised by profile (a sixth less CPU time
# than a version manager's). PYTHON= names another.
PYTHON ?= $(shell /usr/bin/python3 -I -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
    2>/dev/null && echo /usr/bin/)python3
SETTINGS := TOPOLOGY HOST SUITE PROVIDER TEST PILLAR SLS CMD SERVICE REQUEST SINCE FOLLOW ALL VERBOSE VERSION YES SECRET WHY FORCE IDENTITY FORGET EDGE NAME RENEW APP ON OFF
# Taken as they were typed: a `$` in CMD or PILLAR is the machine's, not make's.
$(foreach name,$(SETTINGS),$(eval override $(name) := $$(value $(name))))
export $(SETTINGS)
VENV := .venv
CONTROL := $(VENV)/bin/python -m control
DOCS_VENV := .cache/docs-venv

# --- for people ---------------------------------------------------------------------------------

.PHONY: help
help: ## This list
	@echo 'make COMMAND [TOPOLOGY=dev] […]'
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
	    awk -F'\t' '{ printf "  %-12s %s\n", $$1, $$2 }'

# The hosts of such a topology have no Salt: this computer renders for them.
CONTAINER_HOSTS := $(shell grep -qs '^hosts: containers' pillar/topologies/$(or $(TOPOLOGY),dev).yaml && echo $(VENV)/.cloud)

.PHONY: up
up: $(VENV)/.control $(CONTAINER_HOSTS) ## Machines up and converged; ends with the URL [TOPOLOGY=dev|dev12|prod|ha|containers] [SUITE=trixie|bookworm]
	@$(CONTROL) up

.PHONY: url
url: $(VENV)/.control ## The https URL, alone on stdout
	@$(CONTROL) url

.PHONY: status
status: $(VENV)/.control ## Every service: unit, version, port, health, last metric and log, alerts; fails if one is unhealthy
	@$(CONTROL) status

.PHONY: dashboard
dashboard: $(VENV)/.control ## A tunnel to the monitor's pages; prints the address, Ctrl-C ends it
	@$(CONTROL) dashboard

.PHONY: apply
apply: $(VENV)/.control $(CONTAINER_HOSTS) ## Converge again [HOST=h|local] [TEST=1] [SLS=haproxy] [PILLAR='{…}'] [VERBOSE=1]
	@$(CONTROL) apply

.PHONY: rotate
rotate: $(VENV)/.control $(CONTAINER_HOSTS) ## A new value for a secret, without a moment lost [SECRET=redis-counter]
	@$(CONTROL) rotate

# A secret that somebody gives: its value comes by standard input, never in an argument (docs/secrets.md).
.PHONY: secret
secret: $(VENV)/.control ## A secret that another system knows, its value by standard input [SECRET=site-key] [HOST=h] [FORGET=1] [YES=secret]
	@$(CONTROL) secret

.PHONY: backup
backup: $(VENV)/.control ## A backup of the store, now [HOST=h]
	@$(CONTROL) backup

.PHONY: restore
restore: $(VENV)/.control ## The last backup back into the store, or an application's state [APP=name] [VERSION=name] [TEST=1] [YES=topology] [FORCE=1] [IDENTITY=file]
	@$(CONTROL) restore

.PHONY: failover
failover: $(VENV)/.control ## Move the master of several stores, or the edges' address, without a lost request [HOST=h] [EDGE=1]
	@$(CONTROL) failover

.PHONY: ssh
ssh: $(VENV)/.control ## A shell as root, or one command [HOST=h] [CMD='…']
	@$(CONTROL) ssh

.PHONY: logs
logs: $(VENV)/.control ## The central logs [SERVICE=s] [HOST=h] [REQUEST=id] [SINCE=10m] [FOLLOW=1] [ALL=1]
	@$(CONTROL) logs

.PHONY: down
down: $(VENV)/.control ## Remove the machines of a topology
	@$(CONTROL) down

.PHONY: artifact
artifact: $(VENV)/.control ## dist/NAME-VERSION.tar.gz and its sha256, reproducible [APP=folder, the counter's by default]
	@$(VENV)/bin/python webapp/build.py $(if $(APP),--app "$$APP") --out dist

.PHONY: images
images: $(VENV)/.control ## The container images in dist/images, reproducible [RENEW=1: of today's packages]
	@$(CONTROL) images

.PHONY: publish
publish: $(VENV)/.control ## Store an artifact, made of this checkout or of APP; never replaces one [APP=folder, the counter's by default] [ARTIFACT_STORE=…]
	@$(CONTROL) publish

.PHONY: deploy
deploy: $(VENV)/.control ## Roll a stored artifact out, without a lost request [APP=folder or name] [VERSION=v] [WHY='…']
	@$(CONTROL) deploy

.PHONY: rollback
rollback: $(VENV)/.control ## Back to the last good release [APP=name] [VERSION=v] [WHY='…']
	@$(CONTROL) rollback

.PHONY: releases
releases: $(VENV)/.control ## What is stored, and what runs where [APP=name]
	@$(CONTROL) releases

.PHONY: maintenance
maintenance: $(VENV)/.control ## A page that says so and when to come back, instead of the applications [ON=1|OFF=1] [YES=topology]
	@$(CONTROL) maintenance

.PHONY: new-service
new-service: $(VENV)/.control ## A formula laid out, with what is left to write in it [NAME=memcached]
	@$(CONTROL) new-service

.PHONY: lint
lint: $(VENV)/.dev ## Style of Python, shell, YAML, states; schemas of CI and pillar
	@lint/run

UNIT_TESTS := webapp/tests cloud/saltext-digitalocean/tests tests/unit
PYTEST := $(VENV)/bin/python -m pytest
# In the order of tests/order.py.
BY_FILE := --dist loadscope --no-loadscope-reorder
# Machines of several topologies side by side: more of them than cores, for they mostly wait.
SIDE_BY_SIDE := -n 6 $(BY_FILE)

# TESTS=path::name narrows each of these to a test or a file, ARGS= is pytest's own.
.PHONY: test-unit
test-unit: $(VENV)/.dev $(VENV)/.cloud tests-need ## Tests that need no machine [TESTS=path::name] [ARGS=-x]
	@$(PYTEST) $(or $(TESTS),--tier=test -n 5 $(BY_FILE) $(UNIT_TESTS)) $(ARGS)

.PHONY: test
test: $(VENV)/.dev $(VENV)/.cloud tests-need ## What a change must pass: every promise, on real machines [TESTS=path::name] [ARGS=-x]
	@$(PYTEST) $(or $(TESTS),--tier=test $(SIDE_BY_SIDE) tests/machine $(UNIT_TESTS)) $(ARGS)

.PHONY: test-all
test-all: $(VENV)/.dev $(VENV)/.cloud tests-need ## Everything, on Debian 13 and 12, with the fault runs: hours [TESTS=…] [ARGS=…]
	@$(PYTEST) $(or $(TESTS),--tier=all $(SIDE_BY_SIDE) tests/machine $(UNIT_TESTS)) $(ARGS)

.PHONY: test-faults
test-faults: $(VENV)/.dev tests-need ## The long fault runs alone: every service stopped and frozen, and more [TESTS=…] [ARGS=…]
	@$(PYTEST) $(or $(TESTS),--tier=faults tests/machine) $(ARGS)

.PHONY: test-times
test-times: $(VENV)/.dev ## Where the time of the last test run went [ARGS=rows]
	@$(VENV)/bin/python -m tests.timings $(ARGS)

.PHONY: audit
audit: $(VENV)/audit/.whole ## Known vulnerabilities in any locked package; asks the advisories of PyPI
	@tools/audit

.PHONY: lock
lock: $(VENV)/.dev ## Refresh every hash-locked list of packages
	@tools/lock

.PHONY: docs
docs: $(VENV)/.dev $(DOCS_VENV)/.done ## The documentation: made anew from the code, built strictly into site/
	@$(VENV)/bin/python -m docs.generate
	@$(VENV)/bin/python -m docs.generate.site $(DOCS_VENV)/bin/sphinx-build $(CURDIR)/site

.PHONY: clean
clean: ## Remove what was built here (not the machines: make down)
	@rm -rf dist site .cache .pytest_cache .ruff_cache .mypy_cache $(VENV)

.PHONY: cloud-plan cloud-up cloud-down
cloud-plan: $(VENV)/.cloud ## What cloud-up would create, change and destroy, and what it costs
	@$(CONTROL) cloud-plan

cloud-up: $(VENV)/.cloud ## A topology on DigitalOcean; asks for a machine's name before it destroys it [YES=machine]
	@$(CONTROL) cloud-up

cloud-down: $(VENV)/.cloud ## Remove the topology from DigitalOcean; asks for its name [YES=topology]
	@$(CONTROL) cloud-down

.PHONY: bench
bench: $(VENV)/.control $(VENV)/bench/.whole ## What a request costs beside a naive stack [MANY=prod], what watching and deploying cost
	@command -v wrk >/dev/null || apt-get install -y -qq wrk
	@$(VENV)/bin/python bench/request.py --topology $(or $(TOPOLOGY),dev) $(if $(MANY),--many $(MANY)) --parts
	@echo
	@$(VENV)/bin/python bench/cost.py --topology $(or $(TOPOLOGY),dev) $(ARGS)
	@echo
	@$(VENV)/bin/python bench/deploy.py --topology $(or $(TOPOLOGY),dev)
	@echo
	@$(VENV)/bin/python bench/apply.py --topology $(or $(TOPOLOGY),dev) --ansible $(if $(MANY),--many $(MANY))

# --- what they need -----------------------------------------------------------------------------

# One that was killed while being made has a python but no pip.
WHOLE_VENV = $(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)

# A virtual environment of PYTHON; Debian keeps `venv` in a package apart.
$(VENV)/bin/python:
	@if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	    echo "Python 3.11 or later is needed, $$($(PYTHON) --version) was found" >&2; exit 2; fi
	@if ! $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then \
	    echo "installing python3-venv (the project's Python packages stay in $(VENV))" >&2; \
	    lab/apt python3-venv; fi
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.control: requirements/control.lock bootstrap/install.py | $(VENV)/bin/python
	@echo "installing the controller's Python packages into $(VENV)" >&2
	@$(WHOLE_VENV)
	@$(VENV)/bin/python bootstrap/install.py $< && touch $@

$(VENV)/.dev: requirements/dev.lock bootstrap/install.py | $(VENV)/bin/python
	@echo "installing the Python packages for lint and tests into $(VENV)" >&2
	@$(WHOLE_VENV)
	@$(VENV)/bin/python bootstrap/install.py $<
	@touch $@ $(VENV)/.control

# Apart: what is audited, or measured, must not be mixed with what that needs.
$(VENV)/%/.whole: requirements/%.lock bootstrap/install.py | $(VENV)/bin/python
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python bootstrap/install.py $< && touch $@

# salt-cloud and DigitalOcean's client, for those who use the cloud: 83 MB more.
$(VENV)/.cloud: requirements/cloud.lock bootstrap/install.py cloud/saltext-digitalocean/pyproject.toml | $(VENV)/.control
	@echo "installing salt-cloud and its driver for DigitalOcean into $(VENV)" >&2
	@$(VENV)/bin/python bootstrap/install.py $<
	@$(VENV)/bin/pip --disable-pip-version-check install --quiet --no-deps --no-index \
	    --no-build-isolation --editable cloud/saltext-digitalocean
	@touch $@

# Sphinx in an environment of its own: its packages and Salt's never have to agree.
$(DOCS_VENV)/.done: requirements/docs.lock bootstrap/install.py | $(VENV)/bin/python
	@echo "installing Sphinx into $(DOCS_VENV)" >&2
	@$(PYTHON) -m venv --clear $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python bootstrap/install.py $< && touch $@

# Programs that the tests use: a real Redis, and the eyes of an outsider.
TEST_PACKAGES := rsync redis-server haproxy keepalived age openssl curl testssl.sh nmap fail2ban prometheus prometheus-alertmanager skopeo docker-registry pebble ignition
.PHONY: tests-need
tests-need:
	@missing=; for package in $(TEST_PACKAGES); do \
	    dpkg-query -W -f='$${db:Status-Abbrev}' $$package 2>/dev/null | grep -q '^ii' || missing="$$missing $$package"; \
	done; if [ -n "$$missing" ]; then \
	    echo "installing what the tests use:$$missing"; lab/apt $$missing; fi
	@command -v npm >/dev/null || { echo "installing npm, which runs the pipeline's test"; lab/apt npm; }
