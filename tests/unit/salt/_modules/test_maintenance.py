"""Maintenance is HAProxy's at once, and no apply reloads it for what it was told."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ON, OFF = hashlib.sha256(b"on 1\n").hexdigest(), hashlib.sha256(b"").hexdigest()


@pytest.fixture
def maintenance(
    load_source: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Any:
    units = load_source("salt/_modules/units.py")
    monkeypatch.setattr(units, "STAMPS", str(tmp_path / "loaded"))
    module = load_source(
        "salt/_modules/maintenance.py",
        salt={
            "units.loaded": units.loaded,
            "units.mark_loaded": units.mark_loaded,
            "file_set.digests": load_source("salt/_modules/file_set.py").digests,
            "formula.settings": lambda _: {"admin": {"socket": str(tmp_path / "admin.sock")}},
        },
    )
    monkeypatch.setattr(module, "FOLDER", str(tmp_path))
    return module


@pytest.fixture
def haproxy(tmp_path: Path) -> Any:
    """Its administration socket, which takes whatever it is told."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "admin.sock"))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.recv(4096)

        threading.Thread(target=serve, daemon=True).start()
        yield server


def loaded(folder: Path, **more: str) -> dict[str, str]:
    """What HAProxy is known to have loaded, first ``more`` of the map."""
    path = folder / "loaded" / "haproxy.json"
    if more:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({str(folder / "maintenance.map"): more["map"], "/other": "x"}))
    known = json.loads(path.read_text())
    assert known["/other"] == "x"
    return {"map": known[str(folder / "maintenance.map")]}


@pytest.mark.usefixtures("haproxy")
def test_haproxy_has_loaded_what_it_was_told(maintenance: Any, tmp_path: Path) -> None:
    """An apply after `make maintenance` found a file that HAProxy had not loaded, and reloaded it."""
    loaded(tmp_path, map=OFF)
    assert maintenance.switch(True)
    assert loaded(tmp_path) == {"map": ON}
    assert maintenance.switch(False)
    assert loaded(tmp_path) == {"map": OFF}


@pytest.mark.usefixtures("haproxy")
def test_what_an_apply_under_way_has_not_told_yet_is_left_to_it(
    maintenance: Any, tmp_path: Path
) -> None:
    loaded(tmp_path, map="unknown")
    maintenance.switch(True)
    assert loaded(tmp_path) == {"map": "unknown"}


def test_an_haproxy_that_does_not_run_has_loaded_nothing(maintenance: Any, tmp_path: Path) -> None:
    """It reads the map when it starts, and an apply sees that it has."""
    loaded(tmp_path, map=OFF)
    assert maintenance.switch(True)
    assert (tmp_path / "maintenance.map").read_text() == "on 1\n"
    assert loaded(tmp_path) == {"map": OFF}
