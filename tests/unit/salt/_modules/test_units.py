"""What a unit said last is short enough to be read."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

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
