"""Work on many machines: order, batches, and one that cannot be reached."""

from __future__ import annotations

import pytest

from control import (
    fleet,
    ssh,
)
from control.errors import ControlError
from tests.unit.control.topologies import ONE, PROD, make_topology

pytestmark = pytest.mark.usefixtures("home")


def test_machines_come_after_those_they_need() -> None:
    assert fleet.order(PROD) == ["store1", "app1", "app2", "edge1", "monitor1"]
    both = make_topology(one=["edge", "app"], two=["edge", "app"], s=["store"])
    assert fleet.order(both) == ["s", "one", "two"]


def test_machines_that_serve_are_never_all_worked_on_at_once() -> None:
    assert fleet.batches(PROD, fleet.order(PROD)) == [
        ["store1"],
        ["app1"],
        ["app2"],
        ["edge1"],
        ["monitor1"],
    ]
    many = make_topology(e=["edge"], s=["store"], **{f"app{n}": ["app"] for n in range(20)})
    sizes = [len(group) for group in fleet.batches(many, fleet.order(many))]
    assert sizes == [1, 5, 5, 5, 5, 1]


def test_machines_that_are_new_are_converged_together() -> None:
    new = ["app1", "app2", "store1"]
    assert fleet.batches(PROD, fleet.order(PROD), new)[:3] == [
        ["store1"],
        ["app1", "app2"],
        ["edge1"],
    ]


def test_where_nobody_serves_yet_only_applications_wait() -> None:
    assert fleet.batches(PROD, fleet.order(PROD), list(PROD.machines)) == [
        ["store1", "edge1", "monitor1"],
        ["app1", "app2"],
    ]
    assert fleet.batches(ONE, ["one"], ["one"]) == [["one"]]


def test_one_that_refuses_is_named_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(host: str) -> int:
        if host == "app1":
            raise ControlError("app1: ssh: connect to host: timed out")
        if host == "app2":
            raise ControlError("nothing there")
        return -15 if host == "edge1" else 0

    codes = fleet.each(PROD, work)
    assert codes == {"edge1": 143, "app1": 1, "app2": 1, "store1": 0, "monitor1": 0}
    said = capsys.readouterr().err.splitlines()
    assert sorted(said) == ["app1: ssh: connect to host: timed out", "app2: nothing there"]


def test_lines_of_several_machines_say_whose_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ssh, "command_line", lambda *a, **k: ["printf", "one\ntwo\n"])
    assert ssh.stream(PROD, "app1", "x", fleet.label(PROD, "app1")) == 0
    assert capsys.readouterr().out == "app1      one\napp1      two\n"
    assert fleet.label(ONE, "one") == ""
