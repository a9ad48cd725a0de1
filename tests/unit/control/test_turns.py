"""Machines begin at once and change in turn."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest

from control import converge, fleet, ssh
from control.errors import ControlError
from control.paths import ROOT
from control.topology import Topology
from tests.unit.control.topologies import PROD, make_topology

pytestmark = pytest.mark.usefixtures("home")


def test_a_machine_with_nothing_to_change_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All are at work at the same time, and the edge is asked once for all of them."""
    asked: list[list[str]] = []
    together = threading.Barrier(len(PROD.machines), timeout=30)

    def converge_host(_: Topology, host: str, __: list[str], turn: Any) -> int:
        together.wait()
        return 0

    monkeypatch.setattr(
        fleet, "wait_for_edges", lambda where, hosts, *_: asked.append(sorted(hosts))
    )
    monkeypatch.setattr(converge, "converge_host", converge_host)
    assert converge.converge_machines(PROD, fleet.order(PROD), []) == {}
    assert asked == [sorted(PROD.machines)]
    assert "==>" not in capsys.readouterr().out


def test_before_the_next_machine_changes_what_was_converged_is_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also by a machine that had nothing to change; one that is not in use stops the next of its kind."""
    happened: list[str] = []

    def converge_host(_: Topology, host: str, __: list[str], turn: Any) -> int:
        if host == "app1":
            return 0
        if not turn():
            return 1
        happened.append(host)
        return 0

    def wait(where: Topology, hosts: list[str], *_: Any) -> None:
        happened.append(f"in use: {','.join(hosts)}")
        if "app1" in hosts:
            raise ControlError("edge1 does not use app1-1 (DOWN) after 60 s")

    monkeypatch.setattr(fleet, "wait_for_edges", wait)
    monkeypatch.setattr(converge, "converge_host", converge_host)
    failed = converge.converge_machines(PROD, fleet.order(PROD), [])
    assert happened == [
        *("store1", "in use: store1,app1", "edge1", "in use: edge1", "monitor1"),
        "in use: monitor1",
    ]
    assert failed == {"app1": 1, "app2": 1}


def test_more_machines_than_are_worked_on_at_once_come_to_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = make_topology(e=["edge"], s=["store"], **{f"app{n}": ["app"] for n in range(40)})
    monkeypatch.setattr(fleet, "wait_for_edges", lambda *_: None)
    changed: list[str] = []
    at_once: set[str] = set()
    lock = threading.Lock()

    def converge_host(_: Topology, host: str, __: list[str], turn: Any) -> int:
        assert turn()
        with lock:
            at_once.add(host)
            assert sum(name.startswith("app") for name in at_once) <= 10, "a quarter"
            assert "e" not in at_once or len(at_once) == 1, "the edge after all of them"
            changed.append(host)
        with lock:
            at_once.remove(host)
        return 0

    monkeypatch.setattr(converge, "converge_host", converge_host)
    assert converge.converge_machines(many, fleet.order(many), []) == {}
    assert (changed[0], changed[-1], len(changed)) == ("s", "e", 42)


def test_an_interrupted_run_lets_nobody_else_change_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: dict[str, bool] = {}

    def converge_host(_: Topology, host: str, __: list[str], turn: Any) -> int:
        turns[host] = turn()
        return 0

    def interrupted(where: Topology, hosts: list[str], *_: Any) -> None:
        if hosts:
            raise KeyboardInterrupt

    monkeypatch.setattr(fleet, "wait_for_edges", interrupted)
    monkeypatch.setattr(converge, "converge_host", converge_host)
    with pytest.raises(KeyboardInterrupt):
        converge.converge_machines(PROD, fleet.order(PROD), [])
    assert turns == {"store1": True} | dict.fromkeys(["app1", "app2", "edge1", "monitor1"], False)


def test_a_trial_run_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "wait_for_edges", lambda *_: pytest.fail("nothing has changed"))
    turns = []

    def converge_host(_: Topology, host: str, __: list[str], turn: Any) -> int:
        turns.append(turn)
        return 0

    monkeypatch.setattr(converge, "converge_host", converge_host)
    assert converge.converge_machines(PROD, fleet.order(PROD), ["test=True"]) == {}
    assert turns == [None] * 5


@pytest.mark.parametrize(("may", "said"), [(True, "changed"), (False, "left")])
def test_a_machine_that_asks_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], may: bool, said: str
) -> None:
    program = f"echo '{ssh.WAITING}'; read a; [ \"$a\" = go ] && echo changed || echo left"
    monkeypatch.setattr(ssh, "command_line", lambda *_, **__: ["sh", "-c", program])
    assert ssh.stream(PROD, "app1", "", "app1  ", turn=lambda: may) == 0
    assert capsys.readouterr().out == f"app1  {said}\n"


# Of these, `test=True` says whether they would change anything. A state that says less is not run on a machine that
# waits for its turn (bootstrap/converge): look at its code before it comes in here.
TRIALS_TELL_ALL = {
    *("accounts.managed", "applications.only", "apt_key.pinned", "archive.extracted"),
    *("checked.files", "checked.service", "file.absent", "file.append", "file.blockreplace"),
    *("file.directory", "file.replace", "group.present", "permissions.max_mode", "pkg.installed"),
    *("pki.present", "release.installed", "release.rolled", "secret.present", "service.dead"),
    *("service.enabled", "service.masked", "service.unmasked", "sysctl_settings.applied"),
    *("test.nop", "timezone.system", "user.present"),
    # Only after another one's change (onchanges), which tells.
    "cmd.run",
}


def test_every_state_that_is_used_says_in_a_trial_whether_it_would_change_anything() -> None:
    used = set()
    for path in (ROOT / "salt").rglob("*"):
        if path.suffix in (".sls", ".jinja"):
            text = path.read_text(encoding="utf-8")
            used |= set(re.findall(r"(?m)^  ([a-z_]+\.[a-z_]+):(?: \[\])?\s*$", text))
    assert used - TRIALS_TELL_ALL == set()
    assert TRIALS_TELL_ALL - used == set(), "no longer used"
