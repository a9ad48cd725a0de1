"""Real Salt is asked in processes of its own, and whatever becomes of them is said."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from control import salt_copy
from control.errors import OperationError
from tests.unit.conftest import RELEASE, ask_salt, prepare

DEV = {"topology": "dev", "name": "dev", "release": RELEASE}


def die(_: Any) -> None:
    print("no memory is left", file=sys.stderr, flush=True)
    os._exit(3)


def environment(_: Any, name: str) -> list[str | None]:
    return [os.environ.get(name), os.getcwd()]


FUNCTIONS = {"die": die, "environment": environment}


def test_what_salt_cannot_answer_is_an_error_in_its_own_words(tmp_path: Path) -> None:
    prepare(tmp_path / "dev", DEV)
    with pytest.raises(OperationError, match="no_such.function"):
        ask_salt(tmp_path / "dev", [["no_such.function", [], {}]])


def test_a_process_that_dies_is_an_error_with_what_it_said_last(tmp_path: Path) -> None:
    config = prepare(tmp_path / "dev", DEV)
    with pytest.raises(OperationError, match="no memory is left"):
        salt_copy.ask([config], [["die", [], {}]], __name__)


def test_it_has_the_environment_of_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of the second who asks: the process that has read Salt has that of the first."""
    config = prepare(tmp_path / "dev", DEV)
    for value in ("one", "two"):
        monkeypatch.setenv("ASKED_BY", value)
        ((answer,),) = salt_copy.ask([config], [["environment", ["ASKED_BY"], {}]], __name__)
        assert answer == [value, str(tmp_path / "dev")]


def test_what_one_question_changes_another_does_not_see(tmp_path: Path) -> None:
    prepare(tmp_path / "dev", DEV)
    settings = {"counter": {"instances": 3}}
    laid = [["lay over pillar", [settings], {}], ["pillar.raw", ["counter"], {}]]
    assert ask_salt(tmp_path / "dev", laid)[1] == settings["counter"]
    assert ask_salt(tmp_path / "dev", laid[1:]) == [{}]
