"""bootstrap/status asks a machine's services without Salt, for as long as it knows what there is to ask."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

QUESTIONS = [["web", "no-such-unit", {"port": 80}, None, []]]


@pytest.fixture
def status(
    load_source: Callable[..., ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The program, in a tree of its own; ``asked`` counts how often it asked Salt."""
    module: Any = load_source("bootstrap/status")
    tree = tmp_path / "trees" / "a"
    (tree / "salt").mkdir(parents=True)
    for name in ("_modules", "_executors", "_utils"):
        (tree / "salt" / name).symlink_to(Path(module.TREE) / "salt" / name)
    records = tmp_path / "records"
    records.mkdir()
    packages = tmp_path / "packages"
    packages.touch()
    for name, value in (
        ("TREE", tree),
        ("TREES", tree.parent),
        ("KEPT", tmp_path / "kept" / "questions.json"),
        ("PACKAGES", packages),
        ("RECORDS", records),
    ):
        monkeypatch.setattr(module, name, str(value))
    module.asked = []

    def ask_salt() -> list[Any]:
        module.asked.append(1)
        return QUESTIONS

    monkeypatch.setattr(module, "ask_salt", ask_salt)
    return module


def rows(status: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    assert status.main() == 0
    return json.loads(capsys.readouterr().out)["local"]


def test_salt_is_asked_once_and_the_services_each_time(
    status: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        (row,) = rows(status, capsys)
        assert (row["service"], row["unit"], row["port"], row["well"]) == (
            *("web", "no-such-unit", "80", False),
        )
    assert len(status.asked) == 1
    kept = Path(status.KEPT)
    assert kept.stat().st_mode & 0o777 == 0o600, "root runs what it holds"
    assert kept.parent.stat().st_mode & 0o777 == 0o700


def test_a_note_is_shown_as_salt_would_show_it(
    status: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a module has from Salt, it has here: a machine whose services say what they are was not answered for."""
    ask = {"health": "true", "note": r"printf 'has 192.0.2.1\033[2J'"}
    monkeypatch.setattr(status, "ask_salt", lambda: [["keepalived", "keepalived", ask, None, []]])
    load = status.load

    def load_active(path: str) -> Any:
        module = load(path)
        if path.endswith("report.py"):
            module._properties = lambda units: [{"ActiveState": "active"} for _ in units]
        return module

    monkeypatch.setattr(status, "load", load_active)
    (row,) = rows(status, capsys)
    assert (row["well"], row["note"]) == (True, r"has 192.0.2.1\x1b[2J")


@pytest.mark.parametrize("change", ["tree", "packages", "deploy", "torn", "checkout"])
def test_what_the_questions_follow_from_has_changed_and_salt_is_asked_again(
    status: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    rows(status, capsys)
    if change == "tree":
        Path(status.TREE).rename(Path(status.TREES) / "b")
        monkeypatch.setattr(status, "TREE", str(Path(status.TREES) / "b"))
    elif change == "packages":
        os.utime(status.PACKAGES, ns=(1, 1))
    elif change == "deploy":
        (Path(status.RECORDS) / "shop.json").write_text("[]")
    elif change == "torn":
        Path(status.KEPT).write_text('{"origin": [')
    else:
        # Somebody's checkout (HOST=local), which has another content under the same name.
        monkeypatch.setattr(status, "TREES", "/elsewhere")
        rows(status, capsys)
    rows(status, capsys)
    assert len(status.asked) == (3 if change == "checkout" else 2)


def test_a_salt_that_does_not_answer_is_reported_as_it_is(
    load_source: Callable[..., ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Such as a pillar that is refused: its words, its exit code, and nothing is kept."""
    module: Any = load_source("bootstrap/status")
    call = tmp_path / "bootstrap" / "fast-call"
    call.parent.mkdir()
    call.write_text("#!/bin/sh\necho 'the pillar is refused'\nexit 1\n")
    call.chmod(0o755)
    monkeypatch.setattr(module, "TREE", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        module.ask_salt()
    assert ended.value.code == 1
    assert "the pillar is refused" in capfd.readouterr().out
