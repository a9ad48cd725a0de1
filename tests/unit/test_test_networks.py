"""The networks of the tests' machines."""

from __future__ import annotations

import fcntl
import itertools
from pathlib import Path

import pytest

from control import local_state
from tests.machine import networks


def test_what_a_killed_run_left_is_found_in_whatever_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Its fourteen machines stayed up beside those of the next run, which had another network. Those of its own it converged as
    they were: one that was just being added, another taken away, which `make up` refuses at once.
    """
    monkeypatch.setattr(local_state, "CACHE", tmp_path)
    (tmp_path / "networks").mkdir()
    marks = [Path(f".lab/{name}/made-by-tests") for name in ("dev", "dev-57", "five-58")]
    monkeypatch.setenv("TEST_NETWORK", "58")
    with (
        open(tmp_path / "networks" / "57", "w", encoding="utf-8") as another_run,
        open(tmp_path / "networks" / "58", "w", encoding="utf-8") as this_run,
    ):
        for held in (another_run, this_run):
            fcntl.flock(held, fcntl.LOCK_EX)
        assert networks.left_behind(marks) == ["dev", "five-58"]


def test_topologies_of_a_killed_run_go_with_the_settings_that_its_tests_gave_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run took settings for somebody's own, or converged its machines by them."""
    topologies, settings = tmp_path / "topologies", tmp_path / "settings"
    monkeypatch.setattr(networks, "FOLDER", topologies)
    monkeypatch.setattr(networks, "ROOT", tmp_path)
    for folder in (topologies, settings, tmp_path / ".lab" / "still-there"):
        folder.mkdir(parents=True)
    for name in ("five", "still-there", "mine"):
        made = "" if name == "mine" else networks.MADE
        (topologies / f"{name}.yaml").write_text(f"{made}name: {name}\n")
        (settings / f"{name}.sls").write_text("{}")
    networks.remove_made()
    assert sorted(path.stem for path in topologies.iterdir()) == ["mine", "still-there"]
    assert sorted(path.stem for path in settings.iterdir()) == ["mine", "still-there"]


def test_no_two_topologies_of_the_tests_share_an_address() -> None:
    """They run at the same time: two that did sent one's tree to the other's machines."""
    for (one, first), (other, second) in itertools.combinations(networks.OCTETS.items(), 2):
        assert not set(first) & set(second), f"{one} and {other}"
    # The gateway, and outsiders.
    assert all(1 < octet < 200 for octets in networks.OCTETS.values() for octet in octets)
