"""The table of `make status`, of what machines and monitor answer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from control import status
from control.errors import ControlError


def known() -> status.Known:
    alerts = [
        {"state": "firing", "labels": {"alertname": name, "severity": severity, **more}}
        for name, severity, more in (
            ("RedisDown", "page", {"service": "redis", "machine": "a"}),
            ("CounterDown", "page", {"service": "counter"}),
            ("Watchdog", "info", {"service": "prometheus"}),
        )
    ]
    alerts.append({"state": "pending", "labels": {"alertname": "HaproxyDown"}})
    ages = [{"metric": {"machine": "a", "metric": "collectd_redis_up"}, "value": [0, "990"]}]
    said = "\0".join(
        [
            json.dumps({"data": {"alerts": alerts}}),
            json.dumps({"data": {"result": ages}}),
            "700.5 a/redis.log\n100 a/other.log\n",
            "1000\n",
        ]
    )
    return status.parse(said)


def row(**given: Any) -> dict[str, Any]:
    return {
        "service": "redis",
        "unit": "redis-server",
        "state": "active",
        "version": "8",
        "port": "6379",
        "health": "ok",
        "memory": 6.5,
        "restarts": 0,
        "metric": "collectd_redis_up",
        "logs": ["redis"],
        "well": True,
        **given,
    }


def test_a_row_has_the_ages_and_the_open_alerts() -> None:
    rows, well = status.render({"a": [row()]}, known())
    assert well
    assert rows[0] == status.COLUMNS
    assert rows[1][-3:] == ("10s", "4m", "RedisDown")


def test_an_alert_stands_once_a_service_and_one_of_no_machine_with_all() -> None:
    one = row(service="counter", unit="counter@1", metric=None, logs=[])
    rows, _ = status.render({"a": [one, {**one, "unit": "counter@2"}], "b": [one]}, known())
    assert [line[-3:] for line in rows[1:]] == [
        ("-", "-", "CounterDown"),
        ("-", "-", ""),
        ("-", "-", "CounterDown"),
    ]


def alert(name: str, summary: str = "", **labels: str) -> status.Alert:
    return status.Alert(
        name,
        labels.get("severity", "ticket"),
        labels.get("service", "base"),
        labels.get("machine", "a"),
        labels.get("unit", ""),
        summary,
        f"docs/runbooks/{name}.md",
    )


BASE = [
    row(service="base", unit="ssh", metric=None, logs=[]),
    row(service="base", unit="systemd-journald", metric=None, logs=[]),
    row(),
]


def last_cells(*alerts: status.Alert, listed: Any = None) -> dict[tuple[str, ...], str]:
    """{(machine, service, unit): what stands under alerts}"""
    found = {"a": BASE if listed is None else listed}
    rows, _ = status.render(found, status.Known(alerts=list(alerts)))
    assert len({line[:3] for line in rows}) == len(rows)
    return {line[:3]: line[-1] for line in rows[1:] if line[-1]}


def test_an_alert_stands_in_the_row_of_its_unit_and_not_of_another_of_its_service() -> None:
    died = alert("UnitCrashed", "redis-server on a died", unit="redis-server")
    assert last_cells(died) == {
        ("a", "redis", "redis-server"): "redis-server on a died: UnitCrashed"
    }
    unknown = alert("UnitFailed", "mail failed on a", unit="mail")
    assert last_cells(unknown) == {("a", "base", "mail"): "mail failed on a: UnitFailed"}


def test_two_alerts_of_one_name_are_told_apart_each_once() -> None:
    both = [alert("DiskFull", f"{disk} on a is 99 % full") for disk in ("srv", "root")]
    (found,) = last_cells(*both, both[0]).items()
    assert found == (
        ("a", "base", "-"),
        "root on a is 99 % full: DiskFull; srv on a is 99 % full: DiskFull",
    )


def test_an_alert_of_an_instance_stands_beside_it() -> None:
    listed = [row(service="counter", unit=f"counter@{n}", metric=None, logs=[]) for n in (1, 2)]
    down = alert("CounterInstanceDown", "2 is down", service="counter", unit="counter@2")
    assert last_cells(down, listed=listed) == {
        ("a", "counter", "counter@2"): "2 is down: CounterInstanceDown"
    }


def test_no_alert_is_left_out_whatever_it_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    away = alert("MachineDown", "b answers no ping", machine="b", service="prometheus")
    disk = alert("DiskFull", "root on a is full")
    where: Any = SimpleNamespace(machines=["a", "b"], with_role=lambda _: ["a"])

    def services(_: Any, host: str) -> Any:
        if host == "b":
            raise ControlError("no route")
        return BASE

    monkeypatch.setattr(status, "services", services)
    monkeypatch.setattr(status, "ask_monitor", lambda *_: status.Known(alerts=[away, disk, disk]))
    text, well, names = status.table(where)
    assert not well
    assert names == ["MachineDown", "DiskFull", "DiskFull"]
    assert text.count("root on a is full") == text.count("b answers no ping") == 1
    assert "b answers no ping: MachineDown: docs/runbooks/MachineDown.md" in text
    assert "  ticket DiskFull: docs/runbooks/DiskFull.md" in text


def test_the_written_summary_and_the_runbook_come_from_the_rule() -> None:
    told = {"summary": "root on a is full", "runbook": "docs/runbooks/Other.md"}
    labels = {"alertname": "DiskFull", "severity": "page", "service": "base", "machine": "a"}
    one = {"state": "firing", "labels": labels, "annotations": told}
    said = json.dumps({"data": {"alerts": [one]}}), '{"data": {"result": []}}', "", "1000"
    (found,) = status.parse("\0".join(said)).alerts
    assert found == status.Alert(
        "DiskFull", "page", "base", "a", "", told["summary"], told["runbook"]
    )


def test_nothing_of_a_machine_reaches_the_terminal_as_a_command_nor_makes_a_row_long() -> None:
    evil = "\x1b[2J\nnext\u202e" + "x" * 500
    found = {"a": [row(health=evil, well=False)]}
    rows, _ = status.render(found, status.Known(alerts=[alert("X", evil, service="redis")]))
    assert all(cell.isprintable() for cell in rows[1])
    assert rows[1][6].startswith("\\x1b[2J\\nnext\\u202e")
    assert len(rows[1][6]) == status.CELL


def test_what_a_cell_has_no_room_for_stands_whole_under_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end of a health says what to do: it was cut off, and nowhere else to be read."""
    advice = f"{'x' * status.CELL} journalctl -u redis\x1b[2J says why"
    found = {"a": [row(health=advice, well=False), row(unit="other")], "b": f"no route {'y' * 100}"}

    def services(_: Any, host: str) -> Any:
        if isinstance(answer := found[host], str):
            raise ControlError(answer)
        return answer

    monkeypatch.setattr(status, "services", services)
    monkeypatch.setattr(status, "ask_monitor", lambda *_: status.Known())
    where: Any = SimpleNamespace(machines=["a", "b"], with_role=lambda _: ["a"])
    lines = status.table(where)[0].splitlines()
    whole = f"a redis-server: {'x' * status.CELL} journalctl -u redis\\x1b[2J says why"
    assert lines[lines.index("") :] == ["", f"b: {found['b']}", whole]


# --- what a machine says of its own ---------------------------------------------------------------


@pytest.fixture
def report(
    load_source: Callable[..., ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """`report(show, journal, ask)`: a row, where systemctl and the unit's journal say that."""
    module = load_source("salt/_modules/report.py")

    def one(show: str, journal: bytes = b"", **ask: str) -> dict[str, Any]:
        for name, said in (("systemctl", show.encode()), ("journalctl", journal)):
            (tmp_path / f"{name}.said").write_bytes(said)
            program = tmp_path / name
            program.write_text(f"#!/bin/sh\ncat {tmp_path}/{name}.said\n", encoding="utf-8")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        (found,) = module.answers([["redis", "redis-server", ask, None, []]])
        assert isinstance(found, dict)
        return found

    return one


DOWN = "Id=redis-server.service\nLoadState=loaded\nNRestarts=7\nControlGroup=\n"


@pytest.mark.parametrize(
    ("show", "journal", "health"),
    [
        (
            f"{DOWN}ActiveState=activating\nResult=exit-code\nExecMainStatus=0\n",
            b"no room: No space left on device\n",
            "exit-code: no room: No space left on device",
        ),
        (
            f"{DOWN}ActiveState=activating\nResult=success\nExecMainStatus=0\n",
            b"no room: No space left on device\n",
            "starting: no room: No space left on device",
        ),
        (f"{DOWN}ActiveState=failed\nResult=oom-kill\n", b"", "oom-kill"),
        (
            f"{DOWN}ActiveState=failed\nResult=exit-code\nExecMainStatus=3\n",
            b"Traceback\nKeyError: 1\n",
            "exit-code 3: KeyError: 1",
        ),
        (
            f"{DOWN}ActiveState=failed\nResult=signal\nExecMainStatus=9\n",
            b"\x1b[31mred\xff\x07" + b"x" * 500,
            "signal 9: \\x1b[31mred\\xff\\x07",
        ),
        (f"{DOWN}ActiveState=inactive\nResult=success\n", b"good bye", "down"),
        (
            "Id=x\nLoadState=not-found\nActiveState=inactive\nResult=success\n",
            b"",
            "unit not-found",
        ),
    ],
    ids=[
        "start refused",
        "tried again",
        "no words",
        "exit code",
        "control characters",
        "by hand",
        "no unit",
    ],
)
def test_a_unit_that_does_not_run_says_why(
    report: Callable[..., dict[str, Any]], show: str, journal: bytes, health: str
) -> None:
    found = report(show, journal, health="true")
    assert not found["well"]
    assert found["health"].startswith(health)
    assert len(found["health"]) <= 140
    assert found["health"].isprintable()


def test_a_health_check_that_says_what_no_text_is_leaves_the_table_whole(
    report: Callable[..., dict[str, Any]],
) -> None:
    show = f"{DOWN}ActiveState=active\nResult=success\n"
    found = report(show, health="printf 'a\\n\\033[2J\\377b'; exit 1")
    assert found["health"] == "\\x1b[2J\\xffb"
    assert report(show, health="exit 1")["health"] == "exit 1: exit 1"
    assert report(show, health="true")["well"]


def test_an_unreachable_machine_is_unhealthy() -> None:
    rows, well = status.render({"a": "no route"}, known())
    assert not well
    assert rows[1][3] == "unreachable"


def test_an_unhealthy_service_makes_the_table_unhealthy() -> None:
    assert not status.render({"a": [row(well=False)]}, known())[1]


def test_without_a_monitor_the_ages_are_unknown() -> None:
    rows, well = status.render({"a": [row()]}, status.Known(trouble="away"))
    assert well
    assert rows[1][-3:] == ("-", "-", "")


SILENCE = {
    "id": "5ca1b2cc-2277",
    "status": {"state": "active"},
    "matchers": [
        {"name": "alertname", "value": ".+", "isRegex": True, "isEqual": True},
        {"name": "machine", "value": "a", "isRegex": False, "isEqual": False},
    ],
    "createdBy": "mallory\x1b]52;c;x\x07",
    "comment": "quiet\nwell, asked in 0.1 s",
    "endsAt": "2036-01-02T03:04:05.678Z",
}


def test_every_silence_that_is_active_stands_under_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who, what, until when, on one line that no terminal obeys; none that is over or yet to come."""
    silences = [SILENCE, *({**SILENCE, "status": {"state": s}} for s in ("expired", "pending"))]
    said = ['{"data": {"alerts": []}}', '{"data": {"result": []}}', "", "1000\n"]
    assert status.parse("\0".join(said)).silences == []
    assert status.parse("\0".join([*said, ""])).silences == []
    found = status.parse("\0".join([*said, json.dumps(silences)]))
    monkeypatch.setattr(status, "services", lambda *_: [row()])
    monkeypatch.setattr(status, "ask_monitor", lambda *_: found)
    where: Any = SimpleNamespace(machines={"a": None}, with_role=lambda _: ["a"])
    text, _, _ = status.table(where)
    (line,) = [one for one in text.splitlines() if "5ca1b2cc" in one]
    for word in ("mallory", "2036-01-02 03:04:05 UTC", 'alertname=~".+", machine!="a"', "quiet"):
        assert word in line
    assert text.isprintable() or all(one.isprintable() for one in text.splitlines())
    assert "\nwell" not in text
