"""A restore into several stores, of which one may be away, and the votes that it holds."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from control import backups, ssh, stores
from control.errors import ControlError, OperationError
from control.options import Options
from tests.unit.control.topologies import ONE, make_topology

HA = make_topology(one=["edge", "app", "store"], two=["store"], three=["store"])
NAMES = ["one", "two", "three"]


def seen(master: str, *away: str) -> dict[str, Any]:
    """What `store-set show` says."""
    found = {
        name: {
            "role": "down" if name in away else "master" if name == master else "replica",
            "in_sync": name not in away,
            "lag": None,
            "sentinel": None if name in away else master,
        }
        for name in NAMES
    }
    said = ("Redis does not answer", "its Sentinel has no vote")
    return {
        "master": master,
        "stores": found,
        "why": [f"{name}: {why}" for name in away for why in said],
    }


class Machines:
    """What each is told; one that is ``unreachable`` is not."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.unreachable: list[str] = []
        self.state = seen("one")
        self.preferred = ""
        self.backups = dict.fromkeys(NAMES, 1)

    def run(self, _: Any, host: str, command: str, **__: Any) -> str:
        if host in self.unreachable:
            raise OperationError(f"{host}: no route\n  to it")
        if "show --json" in command:
            return json.dumps(self.state)
        if "list --json" in command:
            return json.dumps([{"time": self.backups[host], "own": True}])
        word = command.rpartition(" ")[2]
        self.told.append(f"{host} {word}")
        if word in ("prefer", "alike"):
            self.preferred = host if word == "prefer" else ""
        return ""

    def stream(self, _: Any, host: str, command: str, **__: Any) -> int:
        """A move: to the one that is preferred, or else to the first other one, as Sentinel does."""
        assert command.endswith(" failover") and host == self.state["master"]
        self.state = seen(self.preferred or next(name for name in NAMES if name != host))
        return 0


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Machines:
    found = Machines()
    monkeypatch.setattr(ssh, "run", found.run)
    monkeypatch.setattr(ssh, "stream", found.stream)
    return found


def test_votes_are_let_go_on_every_machine_that_can_be_reached(
    machines: Machines, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ControlError, match="the restore"), stores.hold_votes(HA):
        assert machines.told == [f"{name} hold" for name in NAMES]
        machines.unreachable = ["one"]
        raise OperationError("the restore failed")
    assert machines.told[3:] == ["two release", "three release"]
    assert "one: no route; its Sentinel votes again" in capsys.readouterr().err


def test_a_restore_does_without_a_store_that_is_away(machines: Machines) -> None:
    machines.state = seen("two", "one")
    machines.unreachable = ["one"]
    machines.backups["three"] = 2
    assert backups.choose_host(HA, "") == "three"
    assert stores.make_master(HA, "two") == ["one"]
    with stores.hold_votes(HA, ["one"]):
        pass
    assert machines.told == ["two hold", "three hold", "two release", "three release"]


def test_any_store_can_be_made_the_master(machines: Machines) -> None:
    """Sentinel always chose the same two of three: a restore into the third was refused after six moves."""
    for name in ("three", "two", "one"):
        assert stores.make_master(HA, name) == []
        assert machines.state["master"] == name
    assert machines.told[:2] == ["three prefer", "three alike"]


def test_a_restore_that_another_master_has_undone_did_not_succeed(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said `restored: count 44156`, and the count was none."""

    def stream(_: Any, host: str, command: str, **__: Any) -> int:
        assert "restore" in command
        machines.state = seen("two")
        return 0

    monkeypatch.setattr(ssh, "stream", stream)
    options = dataclasses.replace(Options.read(), yes="1")
    with pytest.raises(ControlError, match="two became the master meanwhile, so nothing was res"):
        backups.restore(HA, "one", options)
    machines.state = seen("two")
    monkeypatch.setattr(ssh, "stream", lambda *_, **__: 0)
    assert backups.restore(HA, "two", options) == 0


def test_a_master_that_cannot_be_moved_now_is_named(machines: Machines) -> None:
    machines.state = seen("two", "one")
    with pytest.raises(ControlError, match="one away, so two must stay the master: .* HOST=two"):
        stores.make_master(HA, "three")


def test_a_store_that_is_there_and_not_in_sync_is_waited_for(machines: Machines) -> None:
    machines.state["why"] = ["three: is not in sync (connect)"]
    with pytest.raises(ControlError, match="not whole: three: is not in sync"):
        stores.make_master(HA, "one")


def test_without_a_majority_nothing_is_restored(machines: Machines) -> None:
    machines.state = seen("one", "two", "three")
    with pytest.raises(ControlError, match="not whole: two: Redis does not answer"):
        stores.make_master(HA, "one")


def test_that_no_store_can_be_asked_is_one_line(machines: Machines) -> None:
    machines.unreachable = NAMES
    with pytest.raises(ControlError, match="no store can be asked for its backups: one: no route$"):
        backups.choose_host(HA, "")
    # Where there is one, it is that: what is wrong is said by what is asked of it.
    assert backups.choose_host(ONE, "") == "one"


def test_an_apply_waits_for_a_failover_to_end_instead_of_refusing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = seen("one")
    moving = {**whole, "why": [stores.PASSING]}
    said = [moving, moving, whole]
    monkeypatch.setattr(stores, "look", lambda _: said.pop(0))
    monkeypatch.setattr(stores.time, "sleep", lambda _: None)
    stores.refuse_while_missing(HA, NAMES, "apply")
    assert said == []
