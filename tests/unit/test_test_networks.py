"""The networks of the tests' machines."""

from __future__ import annotations

import fcntl
import itertools
from pathlib import Path

import pytest

from control import local_state
from tests.machine import networks


def test_what_a_killed_run_left_in_another_network_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fourteen machines stayed up beside those of the next run, which had another network."""
    monkeypatch.setattr(local_state, "CACHE", tmp_path)
    (tmp_path / "networks").mkdir()
    marks = [Path(f".lab/{name}/made-by-tests") for name in ("dev", "dev-57", "five-58")]
    with open(tmp_path / "networks" / "57", "w", encoding="utf-8") as another_run:
        fcntl.flock(another_run, fcntl.LOCK_EX)
        assert networks.left_elsewhere(marks) == ["dev", "five-58"]
    with open(tmp_path / "networks" / "56", "w", encoding="utf-8") as this_run:
        fcntl.flock(this_run, fcntl.LOCK_EX)
        assert networks.left_elsewhere(marks) == ["dev-57", "five-58"]


def test_no_two_topologies_of_the_tests_share_an_address() -> None:
    """They run at the same time: two that did sent one's tree to the other's machines."""
    for (one, first), (other, second) in itertools.combinations(networks.OCTETS.items(), 2):
        assert not set(first) & set(second), f"{one} and {other}"
    # The gateway, and outsiders.
    assert all(1 < octet < 200 for octets in networks.OCTETS.values() for octet in octets)
