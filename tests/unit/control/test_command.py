"""The controller as a person calls it: what is wrong is one line, before any machine is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from control import __main__, local_state
from tests.unit.control.command_line import call


@pytest.mark.parametrize(
    ("command", "variables", "said"),
    [
        ("url", {"TOPOLOGY": "pord"}, "url: TOPOLOGY=pord: no such topology; did you mean prod?"),
        ("apply", {"HOST": "dve"}, "apply: HOST=dve: no such machine in topology dev;"),
        ("ssh", {"HOST": "nope", "TOPOLOGY": "prod"}, "ssh: HOST=nope: no such machine"),
        ("apply", {"PILLAR": "{port: 1"}, "apply: PILLAR: not JSON: "),
        ("apply", {"PILLAR": "[1]"}, "apply: PILLAR: must be a JSON object"),
        # Would narrow the apply that these do, and leave machines without what they need.
        (
            "rotate",
            {"SECRET": "redis-counter", "HOST": "app1"},
            "rotate: HOST=app1: not with rotate",
        ),
        (
            "cloud-up",
            {"TEST": "1", "SLS": "redis"},
            "cloud-up: TEST=1, SLS=redis: not with cloud-up",
        ),
        ("cloud-down", {"TEST": "1"}, "cloud-down: TEST=1: not with cloud-down"),
    ],
)
def test_a_wrong_word_is_one_line_on_stderr_and_exit_code_2(
    root: Path, command: str, variables: dict[str, str], said: str
) -> None:
    done = call(root, command, **variables)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1


def test_url_is_alone_on_stdout(root: Path) -> None:
    done = call(root, "url", TOPOLOGY="prod")
    assert (done.returncode, done.stdout) == (0, "https://192.168.56.20/\n")


def test_an_unknown_command_is_told_what_there_is(root: Path) -> None:
    done = call(root, "banana")
    assert done.returncode == 2
    assert "'apply'" in done.stderr


@pytest.mark.parametrize("command", ["apply", "status"])
def test_machines_that_are_not_up_are_a_refusal_that_says_what_to_do(
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:

    monkeypatch.setattr(local_state, "ROOT", tmp_path)
    for name in ("HOST", "PILLAR", "SLS", "TEST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOPOLOGY", "dev12")
    monkeypatch.setattr(sys, "argv", ["control", command])
    assert __main__.main() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"{command}: no machines of topology dev12 are known here: ")
    # First: of a topology that is there, `make up` would make a second one.
    assert said.index("bring what the checkout that made them knows:") < said.index("'make up'")
    assert "-m control import-state --topology dev12 FILE'" in said
    assert len(said.splitlines()) == 1


def test_a_dollar_in_a_setting_is_the_machines_not_makes(root: Path, tmp_path: Path) -> None:
    """`make ssh CMD='echo $HOME'` must not be expanded here, let alone run here."""
    makefile = (root / "Makefile").read_text().split("# --- for people")[0]
    (tmp_path / "Makefile").write_text(makefile + "\nshow:\n\t@printenv CMD\n")
    (tmp_path / "lab").mkdir()
    shutil.copy(root / "lab" / "shell", tmp_path / "lab")
    typed = "echo $HOME $(shell touch ran) $$"
    for words in ([f"CMD={typed}"], []):
        done = subprocess.run(
            ["make", "-s", "show", *words], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, **({} if words else {"CMD": typed})}, check=True,
        )  # fmt: skip
        assert done.stdout == typed + "\n"
    assert not (tmp_path / "ran").exists()
