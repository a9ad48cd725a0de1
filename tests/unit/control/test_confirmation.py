"""Nothing is lost without its own name, typed or given beforehand."""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control import backups, fleet, local_state, ssh
from control.commands import maintenance, secret
from control.confirmation import confirm
from control.credentials import given_secrets
from control.errors import UserError
from control.options import Options
from tests.unit.control.topologies import PROD

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def types(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """`types(text)`: somebody sits there and types it; None: ends the input."""

    def sit(text: str | None) -> None:
        def answer(_: str = "") -> str:
            if text is None:
                raise EOFError
            return text

        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(builtins, "input", answer)

    return sit


def test_the_name_alone_confirms(types: Any, capsys: pytest.CaptureFixture[str]) -> None:
    types("live")
    confirm("destroy topology live", "live", "")
    assert capsys.readouterr().out == "destroy topology live: type live to confirm: "
    for wrong in ("y", "yes", "Live", "staging", "", "live2"):
        types(wrong)
        with pytest.raises(UserError, match=f"^{wrong or 'nothing'} was typed, not live: not done"):
            confirm("destroy topology live", "live", "", refused="not done")


def test_an_end_of_input_is_no_confirmation(types: Any) -> None:
    types(None)
    with pytest.raises(UserError, match="nothing was typed, not live"):
        confirm("destroy topology live", "live", "")


def test_a_yes_for_another_object_confirms_nothing(types: Any) -> None:
    """`YES=1` or another name, left in a shell: not even the right name, typed afterwards, is asked for."""
    types("live")
    for left in ("1", "staging", "yes"):
        with pytest.raises(UserError, match=rf"^YES={left}: destroy .*: pass YES=live") as refused:
            confirm("destroy topology live", "live", left)
        assert refused.value.code == 2


def test_the_lab_takes_a_plain_yes(types: Any) -> None:
    confirm("restore", "dev", "1", is_lab=True)
    with pytest.raises(UserError, match="pass YES=dev"):
        confirm("restore", "dev", "prod", is_lab=True)


def test_nobody_there_is_told_which_name_confirms() -> None:
    with pytest.raises(
        UserError, match="^restore: not a terminal: pass YES=dev to confirm; TEST=1"
    ):
        confirm("restore", "dev", "", instead="; TEST=1 is a drill")


@pytest.fixture
def in_cloud(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = local_state.folder(PROD)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "provider").write_text("digitalocean\n")
    (folder / "ssh_config").write_text("Host *\n")


@pytest.mark.usefixtures("in_cloud")
def test_a_restore_in_the_cloud_wants_the_name_of_the_topology(
    monkeypatch: pytest.MonkeyPatch, types: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = {"name": "test-1", "count": 41, "own": True, "time": 1}
    monkeypatch.setattr(
        ssh, "run", lambda *words, **_: json.dumps([backup]) if "--json" in words[2] else ""
    )
    streamed: list[str] = []
    monkeypatch.setattr(ssh, "stream", lambda *words, **_: streamed.append(words[2]) or 0)
    host = "store1"
    options = Options()
    for yes in ("1", "other"):
        with pytest.raises(UserError, match=f"pass YES={PROD.name}"):
            backups.restore(PROD, host, replace(options, yes=yes))
    types("y")
    with pytest.raises(UserError, match="not restored"):
        backups.restore(PROD, host, options)
    assert "count 41" in capsys.readouterr().out
    assert streamed == []
    types(PROD.name)
    assert backups.restore(PROD, host, options) == 0
    assert backups.restore(PROD, host, replace(options, yes=PROD.name)) == 0
    assert streamed == ["/usr/local/sbin/stack-backup restore --yes"] * 2


@pytest.mark.usefixtures("in_cloud")
def test_maintenance_in_the_cloud_wants_the_name_and_its_end_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    switched: list[list[str]] = []
    monkeypatch.setattr(fleet, "each", lambda _, __, hosts: switched.append(hosts) or {})
    with pytest.raises(UserError, match=f"answer 503 to everybody .*pass YES={PROD.name}"):
        maintenance.run(PROD, Options(on=True))
    assert switched == []
    maintenance.run(PROD, Options(on=True, yes=PROD.name))
    maintenance.run(PROD, Options(off=True))
    assert len(switched) == 2


@pytest.mark.usefixtures("in_cloud")
def test_forgetting_a_secret_of_the_cloud_wants_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[str] = []
    monkeypatch.setattr(given_secrets, "delete", lambda _, name: not forgotten.append(name))
    with pytest.raises(UserError, match="pass YES=pager to confirm"):
        secret.run(PROD, Options(secret="pager", forget=True, yes=PROD.name))
    assert forgotten == []
    secret.run(PROD, Options(secret="pager", forget=True, yes="pager"))
    assert forgotten == ["pager"]


def test_no_question_that_a_plain_y_answers_is_left() -> None:
    asking = [
        path.relative_to(ROOT)
        for folder in ("control", "salt", "lab", "bootstrap", "cloud")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
        and path.suffix in ("", ".py")
        and any(mark in path.read_text("utf-8", "replace") for mark in ("[y/N]", "[Y/n]", "(y/n)"))
    ]
    assert asking == []
