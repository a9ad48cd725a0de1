"""Real machines, made by the project's own `make up`, for the tests that talk to them.

Topologies of one machine each: `dev`, `devb` and `devc` (Debian 13; three, so that their tests run
side by side) and `dev12` (Debian 12). `dev` is the one of `make up`: up already, it is converged
again and left up. `dev` and `dev12` are made from nothing, the others with the formulas' packages
installed beforehand (layers.py). What the tests made is removed when they end, also when they fail; what a killed run
left is removed by the next.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import evidence
import networks
import pytest
from lab_machine import MARK, ROOT, KitchenLab, Lab, made
from xdist.scheduler import LoadScopeScheduling

# TEST_TOPOLOGIES chooses among them: TEST_TOPOLOGIES=dev make test
TOPOLOGIES = os.environ.get("TEST_TOPOLOGIES", "dev devb devc dev12").split()
if "KITCHEN_HOSTNAME" in os.environ:
    TOPOLOGIES = ["kitchen"]
# Which of Debian 13 has a file's tests; `dev` has the rest, and all of them where it is alone. Each of the three takes as long
# as the others together have for one worker: what one has more is at the end alone on the computer (`make test-times`, worker).
SHARES = {
    "devb": (
        "test_apps",
        "test_backup",
        "test_balancer",
        "test_bans",
        "test_count",
        "test_examples",
        "test_filebeat",
        "test_http3",
        "test_logs",
    ),
    "devc": (
        "test_deploy",
        "test_firewall",
        "test_monitoring",
        "test_secrets",
    ),
}
# A host that runs containers: `test_containers` is about it, and TEST_TOPOLOGIES=pods runs others on it.
CONTAINERS = "pods"


class ByMachine(LoadScopeScheduling):
    """All tests of one machine go to one worker, in order; others by their file. (xdist's own
    groups do nothing under pytest 9.)"""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        of = re.search(r"\[([^]-]+)", test)
        if file.startswith("tests/machine/") and of and of[1] in TOPOLOGIES:
            return of[1]
        return file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByMachine:
    """Machines run side by side, as many as there are workers."""
    return ByMachine(config, log)


def pytest_configure(config: pytest.Config) -> None:
    networks.lease()
    if config.option.collectonly or os.environ.get("PYTEST_XDIST_WORKER"):
        return
    for topology in networks.left_behind((ROOT / ".lab").glob(f"*/{MARK}")):
        print(f"removing what a run that was killed has left: {topology}")
        down = ["make", "--silent", "down", f"TOPOLOGY={topology}"]
        subprocess.run(down, cwd=ROOT, check=False)
    networks.remove_made()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The machines that a test runs on: one of Debian 13, and that of Debian 12."""
    if "lab" not in metafunc.fixturenames:
        return
    file = metafunc.module.__name__.rpartition(".")[2]
    others = {name for name, files in SHARES.items() if name in TOPOLOGIES and file in files}
    chosen = [CONTAINERS] if file == "test_containers" else [
        name for name in TOPOLOGIES
        if name in others or (name == "dev" and not others) or name not in {"dev", *SHARES}
    ]  # fmt: skip
    metafunc.parametrize("lab", chosen, indirect=True, scope="session")


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A converged machine; see the module's text."""
    if request.param == "kitchen":
        yield KitchenLab()
        return
    topology = networks.named(request.param)
    written = None
    if request.param in (*SHARES, CONTAINERS) or topology != request.param:
        machine = {"address": networks.address(request.param), "memory": 1024, "cpus": 2}
        roles = ["edge", "app", "store", "monitor"]
        suite = "bookworm" if request.param == "dev12" else "trixie"
        more = {"hosts": "containers"} if request.param == CONTAINERS else {}
        written = networks.write(
            topology, {topology: {**machine, "roles": roles}}, suite=suite, **more
        )
    with made(Lab(topology), bare=request.param not in SHARES) as it:
        yield it
    if written:
        networks.remove(written)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Keep what is needed to understand a failure, and say where it lies."""
    report = yield
    if report.failed and report.when != "teardown":
        machine = next(
            (one for one in getattr(item, "funcargs", {}).values() if isinstance(one, Lab)), None
        )
        if machine:
            folder = evidence.keep(machine, item.nodeid)
            report.sections.append(("kept", f"{folder.relative_to(ROOT)}/"))
    return report


@pytest.fixture(autouse=True)
def leave_it_well(lab: Lab) -> Iterator[None]:
    """Every test begins with all instances taking requests, whatever the one before did."""
    lab.wait("all instances up before the test", lab.all_ready)
    yield
