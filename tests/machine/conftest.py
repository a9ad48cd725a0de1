"""Real machines, made by the project's own `make up`, for the tests that talk to them.

Two topologies of one machine each: `dev` (Debian 13) and `dev12` (Debian 12). A machine that is
up already is converged again and left up; one that the tests made is removed when they end, also
when they fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from lab_machine import ROOT, KitchenLab, Lab

# TEST_TOPOLOGIES chooses others of one machine: TEST_TOPOLOGIES=dev make test
TOPOLOGIES = os.environ.get("TEST_TOPOLOGIES", "dev dev12").split()
if "KITCHEN_HOSTNAME" in os.environ:
    TOPOLOGIES = ["kitchen"]


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
        machine.up_output = machine.make("up", timeout=1200).stdout  # type: ignore[attr-defined]
        yield machine
    finally:
        if made_here:
            machine.make("down", check=False)


@pytest.fixture(autouse=True)
def leave_it_well(lab: Lab) -> Iterator[None]:
    """Every test begins with all instances taking requests, whatever the one before did."""
    lab.wait("all instances up before the test", lab.all_ready)
    yield
