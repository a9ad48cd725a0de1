"""In which order workers take the tests: what takes longest begins first, so that none is alone at the end.

A pytest plugin (see addopts in pyproject.toml). xdist hands out a file, or all tests of a machine, at a
time; left to itself it begins with the file that has the most tests, which says little of their time.
"""

from __future__ import annotations

import gc
import logging

import pytest

# What is imported and collected stays: to look through it for garbage again and again was a tenth of all time.
gc.set_threshold(50_000, 20, 50)

# Machines, and files (`make test-times` prints their time); all others come after them.
FIRST = (
    "tests/machine/test_rehearsal.py", "tests/machine/test_prod.py", "tests/machine/test_stores.py", "dev", "devb", "devc", "tests/machine/test_floating.py",
    "tests/machine/test_cloud.py", "pods", "dev12", "tests/machine/test_lifted.py",
    "cloud/saltext-digitalocean/tests/functional/clouds/test_digitalocean_driver.py", "tests/unit/control/cloud/test_cloud.py",
    "tests/unit/salt/test_render.py", "tests/unit/test_docs.py", "webapp/tests/test_sentinels.py", "webapp/tests/test_build.py",
    "tests/unit/control/artifacts/test_repository.py", "tests/unit/test_pipeline.py", "webapp/tests/test_examples.py",
    "webapp/tests/test_drain.py", "tests/unit/test_import_tickets.py", "webapp/tests/test_redis_faults.py",
    "tests/unit/control/test_dashboard.py", "tests/unit/test_diagrams.py", "tests/unit/control/cloud/test_balancers.py",
    "tests/unit/control/containers/test_container_hosts.py", "tests/unit/salt/test_property.py",
    "tests/unit/control/cloud/test_container_hosts.py", "tests/unit/salt/shipper/test_shipper.py",
    "tests/unit/salt/rsyslog/test_central_logs.py", "tests/unit/salt/_modules/test_release.py", "tests/unit/salt/test_ubuntu.py",
    "webapp/tests/test_serving.py", "tests/unit/salt/haproxy/test_haproxy_limits.py", "tests/unit/salt/redis/test_store_set.py",
    "tests/unit/test_tiers.py", "tests/unit/control/credentials/test_given_secrets.py", "tests/unit/salt/_modules/test_packages.py",
    "tests/unit/salt/prometheus/test_alerts.py", "tests/unit/salt/prometheus/test_scrapes.py",
)  # fmt: skip


def scope(item: pytest.Item) -> str:
    """The machine on which a test runs, else its file."""
    chosen = getattr(item, "callspec", None)
    machine = chosen.params.get("lab") if chosen else None
    return str(machine or item.nodeid.partition("::")[0])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(one) if (one := scope(item)) in FIRST else len(FIRST))


def pytest_collection_finish() -> None:
    # Salt, once it is imported, has every line of its log made, and pytest keeps them.
    logging.getLogger().setLevel(logging.WARNING)
    gc.collect()
    gc.freeze()
