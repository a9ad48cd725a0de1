"""Machines converge in order and in batches; what fails stops what would break too."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from control import (
    converge,
    fleet,
    ssh,
    topology,
)
from control.errors import ControlError
from control.topology import Topology
from tests.unit.control.topologies import GOOD, ONE, PROD, make_topology

pytestmark = pytest.mark.usefixtures("home")


def changed(**machine: Any) -> dict[str, Any]:
    machines = {**GOOD["machines"], "two": {**GOOD["machines"]["two"], **machine}}
    return {**GOOD, "machines": machines}


def test_pillar_and_sls_reach_the_machine_as_one_word_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A quote or a space in PILLAR must neither split nor run on the machine."""
    import shlex

    sent: list[str] = []

    def stream(where: Any, host: str, command: str, label: str, turn: Any) -> int:
        sent.append(command)
        return 0

    monkeypatch.setattr(ssh, "stream", stream)
    overlay = {"base": {"timezone": "it's; rm -rf $HOME `x`"}}
    converge.converge_host(
        topology.load("dev"), "dev", ["haproxy", f"pillar={json.dumps(overlay)}"]
    )
    words = shlex.split(sent[0])
    assert words[-2] == "haproxy"
    assert json.loads(words[-1].removeprefix("pillar=")) == overlay


@pytest.mark.parametrize(
    ("waits", "reachable", "code", "said"),
    [
        ("", True, 0, ""),
        ("/the/file", True, 0, "dev: firewall: confirmed (over a new ssh connection)\n"),
        ("/the/file", False, 1, "dev: the changed firewall could not be confirmed over a new"),
    ],
)
def test_a_changed_firewall_is_confirmed_over_a_new_connection(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    waits: str,
    reachable: bool,
    code: int,
    said: str,
) -> None:

    def run(where: Any, host: str, command: str, fresh: bool = False) -> str:
        if not fresh:
            return waits
        if not reachable:
            raise ControlError("dev: firewall-confirm: timed out")
        return "firewall: confirmed\n"

    monkeypatch.setattr(ssh, "run", run)
    monkeypatch.setattr(ssh, "stream", lambda *words, turn: 0)
    assert converge.converge_host(topology.load("dev"), "dev", []) == code
    out, err = capsys.readouterr()
    assert (out, err[: len(said)]) == ("", said)
    assert converge.converge_host(topology.load("dev"), "dev", ["test=True"]) == 0, (
        "nothing was changed"
    )


def converge_all(
    codes: dict[str, int], monkeypatch: pytest.MonkeyPatch, **more: Any
) -> tuple[list[str], dict[str, int]]:
    """Who was changed, in which order, and who failed, when machines end with `codes`."""
    done: list[str] = []
    lock = threading.Lock()

    def converge_host(where: Topology, host: str, words: list[str], turn: Any) -> int:
        if not turn():
            return 1
        with lock:
            done.append(host)
        if codes.get(host) == -1:
            raise ControlError(f"{host}: cannot be reached")
        return codes.get(host, 0)

    monkeypatch.setattr(fleet, "wait_for_edges", lambda *_: None)
    monkeypatch.setattr(converge, "converge_host", converge_host)
    return done, converge.converge_machines(PROD, fleet.order(PROD), [], **more)


def test_a_machine_that_cannot_be_reached_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, failed = converge_all({"app1": 255}, monkeypatch)
    assert done == ["store1", "app1", "app2", "edge1", "monitor1"]
    assert failed == {"app1": 255}


def test_what_breaks_one_machine_is_not_done_to_the_next_of_its_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done, failed = converge_all({"app1": 2}, monkeypatch)
    assert done == ["store1", "app1", "edge1", "monitor1"]
    assert failed == {"app1": 2, "app2": 1}
    assert "app2: left as it is, for app1 failed" in capsys.readouterr().err


def test_an_edge_that_cannot_be_asked_is_named_once_and_the_others_finish(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def converge_host(where: Topology, host: str, words: list[str], turn: Any) -> int:
        assert turn()
        done.append(host)
        return 255 if host == "edge1" else 0

    def run(where: Topology, host: str, command: str) -> str:
        raise ControlError(f"{host}: ssh: connect to host: timed out")

    monkeypatch.setattr(ssh, "run", run)
    monkeypatch.setattr(converge, "converge_host", converge_host)
    failed = converge.converge_machines(PROD, fleet.order(PROD), [])
    assert done == ["store1", "app1", "app2", "edge1", "monitor1"]
    assert failed == {"edge1": 255}
    said = capsys.readouterr().err
    assert said.count("timed out") == 1 and "edge1: not asked whether it uses app1" in said
    hosts = [host for host in fleet.order(PROD) if host != "edge1"]
    assert converge.converge_machines(PROD, hosts, [], known=["edge1"]) == {}
    assert capsys.readouterr().err == "", "it was named already"
    with pytest.raises(ControlError, match="timed out"):
        fleet.wait_for_edges(PROD, ["app1"])


def test_a_connection_that_is_killed_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(ssh, "command_line", lambda *_, **__: ["sh", "-c", "kill -9 $$"])
    monkeypatch.setattr(converge, "confirm_firewall", lambda *_: 0)
    for where, host in ((PROD, "app1"), (ONE, "one")):
        assert converge.converge_host(where, host, []) == 137


def test_before_a_machine_goes_the_edge_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    done, _ = converge_all({}, monkeypatch, edges_first=True)
    assert done == ["edge1", "store1", "app1", "app2", "monitor1"]


def made(home: Path, *names: str) -> None:
    """As if 'make up' had made these."""
    data = {
        "name": "test",
        "domain": "counter.test",
        "network": "10.0.0.0/24",
        "machines": {
            name: {"address": f"10.0.0.{number}", "roles": [name.rstrip("0123456789")]}
            for number, name in enumerate(names, 2)
        },
    }
    (home / ".lab" / "test").mkdir(parents=True, exist_ok=True)
    (home / ".lab" / "test" / "topology.yaml").write_text(yaml.safe_dump(data))


def test_a_machine_that_the_topology_lost_is_known_to_be_there(home: Path) -> None:
    assert converge.refuse_add_and_remove(PROD) == []
    made(home, "edge1", "app1", "app2", "store1", "monitor1", "app3")
    assert converge.refuse_add_and_remove(PROD) == ["app3"]


def test_to_add_and_to_take_away_at_once_is_refused(home: Path) -> None:
    made(home, "edge1", "app1", "app3", "store1", "monitor1")
    with pytest.raises(ControlError, match="lost app3 and gained app2: first add"):
        converge.refuse_add_and_remove(PROD)


def test_a_set_of_stores_never_becomes_one_in_place(home: Path) -> None:
    """What is left would be a replica without a master, or count on without what the others have."""
    made(home, "edge1", "app1", "app2", "store1", "store2", "store3", "monitor1")
    with pytest.raises(ControlError, match="has 3 stores, and would have one"):
        converge.refuse_add_and_remove(PROD)
    with pytest.raises(ControlError, match="has 3 stores, and would have one"):
        converge.refuse_add_and_remove(PROD, is_booted=True)
    fewer = make_topology(edge1=["edge"], **{f"store{n}": ["store"] for n in (1, 2, 3)})
    assert converge.refuse_add_and_remove(fewer) == ["app1", "app2", "monitor1"]


def test_a_new_machine_wants_up_before_apply(home: Path) -> None:
    made(home, "edge1", "app1", "store1", "monitor1")
    assert converge.refuse_add_and_remove(PROD) == []
    with pytest.raises(ControlError, match="app2: new in the topology: 'make up' makes it"):
        converge.refuse_add_and_remove(PROD, is_booted=True)
