"""What a unit said last is short enough to be read."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


def test_equal_tracebacks_are_one_line(
    load_source: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ready path that answered 500 put 14 kB of JSON between its verdict and the prompt."""
    trace = (
        'Traceback:\n  File "/a/front.py", line 3, in ask\n  File "/a/app.py", line 12, in ready\n'
    )
    entry = {"event": "request", "path": "/ready", "status": 500, "error": "KeyError: 'x'"}
    lines = [json.dumps({**entry, "ts": number, "traceback": trace}) for number in range(9)]
    other = ["plain", json.dumps({"event": "start"}), "7", "[1]", json.dumps({"traceback": 7})]
    lines += [
        json.dumps({"ts": number, "message": "Internal Error: /ready"}) for number in range(3)
    ]
    text = "\n".join([*lines[:5], *other, *lines[5:]])
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=f"{text}\n"))
    words = load_source("salt/_modules/units.py").last_words("app@1.service", 10)
    first = "/ready 500: KeyError: 'x': /a/app.py:12 in ready (9 times)"
    assert words.splitlines() == [first, *other, "Internal Error: /ready (3 times)"]


UNITS = "/etc/systemd/system"


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        (f"{UNITS}/shop.service", "shop.service"),
        (f"{UNITS}/shop.timer", "shop.timer"),
        (f"{UNITS}/redis-server.service.d/stack.conf", "redis-server.service"),
        # A template is no unit of its own, nor is the prefix of some.
        (f"{UNITS}/counter@.service", "counter@*.service"),
        (f"{UNITS}/counter@1.service.d/own.conf", "counter@1.service"),
        (f"{UNITS}/firewall-.service.d/stack.conf", "firewall-*.service"),
    ],
)
@pytest.mark.parametrize(
    ("code", "said", "reloads"),
    [
        (0, "", False),
        (0, "shop.service not-found inactive dead shop.service\n", False),
        (0, "a.service not-found inactive dead a\nb.service loaded inactive dead b\n", True),
        (0, "shop.service masked inactive dead shop.service\n", True),
        # Who knows?
        (1, "Failed to list units\n", True),
    ],
)
def test_unit_files_are_read_anew_where_systemd_has_one_of_their_units(
    load_source: Callable[..., ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    pattern: str,
    code: int,
    said: str,
    reloads: bool,
) -> None:
    units: Any = load_source("salt/_modules/units.py")
    commands: list[tuple[str, ...]] = []

    def systemctl(*words: str, timeout: int = 0) -> tuple[int, str]:
        commands.append(words)
        return code, said

    monkeypatch.setattr(units, "systemctl", systemctl)
    units.reread(["/etc/haproxy/haproxy.cfg", path])
    listed, *more = commands
    assert listed[0] == "list-units" and listed[-1] == pattern and "--all" in listed
    assert more == ([("daemon-reload",)] if reloads else [])


def test_other_files_ask_systemd_nothing(
    load_source: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    units: Any = load_source("salt/_modules/units.py")
    monkeypatch.setattr(units, "systemctl", lambda *words, timeout=0: pytest.fail(str(words)))
    units.reread(["/etc/haproxy/haproxy.cfg", "/etc/systemd/journald.conf.d/stack.conf"])
