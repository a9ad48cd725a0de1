"""`make up`: what it says at its end."""

from __future__ import annotations

import time

import pytest

from control import status, topology
from control.commands import up

DEV = topology.load("dev")


def test_up_waits_for_what_has_just_been_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log shipper that connects two seconds later is no failure of `make up`."""
    answers = iter([("shipper: not connected", False, []), ("all ok", True, [])])
    monkeypatch.setattr(status, "table", lambda _: next(answers))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert up.wait_until_healthy(DEV) == ("all ok", True)


def test_up_ends_with_the_table_of_what_stays_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(status, "table", lambda _: (f"redis: down at {now[0]:.0f}", False, []))
    table, healthy = up.wait_until_healthy(DEV)
    assert not healthy
    assert table == f"redis: down at {up.HEALTHY_WITHIN + 1}"
