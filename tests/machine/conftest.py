"""Real machines, made by the project's own `make up`, for the tests that talk to them.

Two topologies of one machine each: `dev` (Debian 13) and `dev12` (Debian 12). A machine that is
up already is converged again and left up; one that the tests made is removed when they end, also
when they fail.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
import turns
from lab_machine import ROOT, KitchenLab, Lab
from xdist.scheduler import LoadScopeScheduling

# TEST_TOPOLOGIES chooses others of one machine: TEST_TOPOLOGIES=dev make test
TOPOLOGIES = os.environ.get("TEST_TOPOLOGIES", "dev dev12").split()
if "KITCHEN_HOSTNAME" in os.environ:
    TOPOLOGIES = ["kitchen"]


class ByTopology(LoadScopeScheduling):
    """All tests of one topology go to one worker, in order; others by their file. (xdist's own
    groups do nothing under pytest 9.)"""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        of = re.search(r"\[([^]-]+)", test)
        if file.startswith("tests/machine/") and of and of[1] in TOPOLOGIES:
            return of[1]
        return file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByTopology:
    """Machines run side by side, as many as there are workers."""
    return ByTopology(config, log)


# Before pytest itself takes what `-m` does not choose.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the first machine has shown; see the markers' text in pyproject.toml."""

    def again(item: pytest.Item, marker: str) -> bool:
        chosen = getattr(item, "callspec", None)
        return bool(
            chosen
            and item.get_closest_marker(marker)
            and chosen.params.get("lab", TOPOLOGIES[0]) != TOPOLOGIES[0]
        )

    for item in items:
        if again(item, "long_again"):
            item.add_marker("long")
    left_out = {item for item in items if again(item, "one_release")}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", params=TOPOLOGIES)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A converged machine; see the module's text."""
    topology = request.param
    if topology == "kitchen":
        yield KitchenLab()
        return
    made_here = not (ROOT / ".lab" / topology / "ssh_config").exists()
    machine = Lab(topology)
    try:
        with turns.shared():
            machine.up_output = machine.make("up", timeout=1200).stdout  # type: ignore[attr-defined]
        yield machine
    finally:
        if made_here:
            machine.make("down", check=False)


@pytest.fixture(autouse=True)
def turn() -> Iterator[None]:
    """Tests of other machines may run beside this one, but none that sends load."""
    with turns.shared():
        yield


@pytest.fixture(autouse=True)
def leave_it_well(lab: Lab, turn: None) -> Iterator[None]:
    """Every test begins with all instances taking requests, whatever the one before did."""
    lab.wait("all instances up before the test", lab.all_ready)
    yield
