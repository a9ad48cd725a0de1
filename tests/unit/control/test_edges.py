"""Of several edges that share an address one serves at every moment, and moves are refused with their reason."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from control import converge, edges, ssh
from control.errors import ControlError, OperationError
from tests.unit.control.topologies import PROD, make_topology

TWO = dataclasses.replace(
    make_topology(edge1=["edge"], edge2=["edge"], app1=["app"], store1=["store"]),
    floating_address="10.0.0.99",
)
HAS, STANDBY = "has 10.0.0.99\n", "stands by for 10.0.0.99\n"
BROKEN = "haproxy does not answer: 10.0.0.99 can't be here\n"


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What each edge says of itself; one that is not in it can't be reached."""
    found: dict[str, str] = {"edge1": HAS, "edge2": STANDBY}

    def run(_: Any, host: str, command: str, **__: Any) -> str:
        if host not in found:
            raise OperationError(f"{host}: no route")
        if command.endswith("handover"):
            found.update(edge1=STANDBY, edge2=HAS)
            return found.get("said", "moved")
        return found[host]

    monkeypatch.setattr(ssh, "run", run)
    return found


def test_the_edge_that_has_the_address_is_converged_last(states: dict[str, str]) -> None:
    assert edges.standby_first(TWO, ["edge1", "app1", "edge2"]) == ["app1", "edge2", "edge1"]
    # Where there is no choice, nobody is asked.
    states.clear()
    assert edges.standby_first(PROD, ["edge1", "app1"]) == ["edge1", "app1"]
    assert edges.standby_first(TWO, ["edge1", "app1"]) == ["edge1", "app1"]


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (STANDBY, ""),
        (BROKEN, "no other edge could serve meanwhile (edge2: haproxy does not answer"),
        (None, "no other edge could serve meanwhile (edge2: unreachable)"),
    ],
)
def test_an_edge_waits_while_no_other_could_serve(
    states: dict[str, str], second: str | None, reason: str
) -> None:
    states.pop("edge2")
    if second:
        states["edge2"] = second
    said = edges.reason_to_wait(TWO, ["edge1"])
    assert said.startswith(reason)
    assert bool(said) == bool(reason)
    # It serves nobody itself, and other machines are no edges.
    assert edges.reason_to_wait(TWO, ["edge2"]) == ""
    assert edges.reason_to_wait(TWO, ["app1"]) == ""
    states["edge1"] = BROKEN
    assert edges.reason_to_wait(TWO, ["edge1"]) == ""


def test_an_apply_leaves_the_last_edge_as_it_is_and_says_why(
    states: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    converged: list[str] = []

    def converge_host(_: Any, host: str, __: Any, turn: Any) -> int:
        if turn and not turn():
            return 1
        converged.append(host)
        return 0

    monkeypatch.setattr(converge, "converge_host", converge_host)
    monkeypatch.setattr(converge.fleet, "wait_for_edges", lambda *_: None)
    assert converge.converge_machines(TWO, list(TWO.machines), []) == {}
    assert converged == ["store1", "app1", "edge2", "edge1"]
    converged.clear()
    states.pop("edge2")
    assert converge.converge_machines(TWO, ["edge1", "app1"], []) == {"edge1": 1}
    assert converged == ["app1"]
    assert (
        "edge1: left as it is: no other edge could serve meanwhile (edge2"
        in capsys.readouterr().err
    )
    assert converge.converge_machines(TWO, ["edge1"], [], is_forced=True) == {}
    assert converge.converge_machines(TWO, ["edge1"], ["test=True"]) == {}
    assert converge.converge_machines(TWO, ["edge1"], [], new=["edge1"]) == {}


def test_the_address_is_moved_on_purpose(states: dict[str, str]) -> None:
    assert edges.fail_over(TWO) == "10.0.0.99: edge1 -> edge2"


def test_a_move_that_cut_somebody_off_says_so(states: dict[str, str]) -> None:
    cut = "cut connections that were still open after 5 s: 3"
    states["said"] = f"{cut}\n10.0.0.99 is another edge's now\n"
    assert edges.fail_over(TWO) == f"10.0.0.99: edge1 -> edge2 ({cut})"


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (HAS, BROKEN, "no other edge could take 10.0.0.99 (edge1: has 10.0.0.99; edge2: haproxy"),
        (HAS, HAS, "not one edge has 10.0.0.99"),
        (STANDBY, STANDBY, "not one edge has 10.0.0.99"),
    ],
)
def test_a_move_that_could_not_end_well_is_refused(
    states: dict[str, str], first: str, second: str, said: str
) -> None:
    states.update(edge1=first, edge2=second)
    with pytest.raises(ControlError, match="^" + said.replace("(", r"\(")):
        edges.fail_over(TWO)
    with pytest.raises(ControlError, match="topology test has no floating_address"):
        edges.fail_over(PROD)


BALANCED = dataclasses.replace(TWO, floating_address=None, balancer="198.51.100.7")


def test_behind_a_balancer_an_edge_waits_while_no_other_is_ready(states: dict[str, str]) -> None:
    states.update(edge1="ready\n", edge2="ready\n")
    assert edges.reason_to_wait(BALANCED, ["edge1"]) == ""
    assert edges.standby_first(BALANCED, ["edge1", "edge2"]) == ["edge1", "edge2"]
    states["edge2"] = "no application has a server here\n"
    reason = edges.reason_to_wait(BALANCED, ["edge1"])
    assert "could serve meanwhile (edge2: no application has a server here)" in reason
    # One that is not ready is nobody's loss.
    assert edges.reason_to_wait(BALANCED, ["edge2"]) == ""
    with pytest.raises(ControlError, match="has a balancer, which uses every edge that is ready"):
        edges.fail_over(BALANCED)
