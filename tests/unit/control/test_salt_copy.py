"""Real Salt is asked in processes of its own, and whatever becomes of them is said."""

from __future__ import annotations

import os
import py_compile
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from control import salt_copy
from control.errors import OperationError
from tests.unit.conftest import RELEASE, ROOT, ask_salt, prepare

DEV = {"topology": "dev", "name": "dev", "release": RELEASE}


def die(_: Any) -> None:
    print("no memory is left", file=sys.stderr, flush=True)
    os._exit(3)


def environment(_: Any, name: str) -> list[str | None]:
    return [os.environ.get(name), os.getcwd()]


def is_a_copy(_: Any) -> bool:
    from control import salt_answers

    return os.getpid() != salt_answers.READER


def has_compiled(_: Any, template: str) -> bool:
    import jinja2

    from control import salt_answers

    jinja2.Environment().from_string(template)
    return bool(salt_answers.TEMPLATES.is_changed)


FUNCTIONS = {
    "die": die,
    "environment": environment,
    "is a copy": is_a_copy,
    "has compiled": has_compiled,
}


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


def test_a_template_that_was_compiled_for_one_question_is_for_the_next(tmp_path: Path) -> None:
    """Of one process after the other, and of those that were there before."""
    config = prepare(tmp_path / "dev", DEV)
    # Kept beyond this run, whose folder may have the name of an earlier one.
    asked = [["has compiled", [f"{{# {uuid.uuid4()} #}}{{{{ x }}}}"], {}]]
    assert salt_copy.ask([config], asked, __name__) == [[True]]
    assert salt_copy.ask([config], asked, __name__) == [[False]]


def test_salt_is_read_once_from_wherever_the_controller_is_started(tmp_path: Path) -> None:
    """As bin/control starts it. Of some Pythons the process had no path by which to find what it should read."""
    config = prepare(tmp_path / "dev", DEV)
    program = (
        "import os, sys; from pathlib import Path; from control import salt_copy; del os.environ['PYTHONPATH'];"
        "print(salt_copy.ask([Path(sys.argv[1])], [['is a copy', [], {}]], 'tests.unit.control.test_salt_copy'))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(config)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[[True]]\n", done.stderr


def test_a_module_whose_source_is_gone_is_gone(tmp_path: Path) -> None:
    """Python leaves what it has compiled beside the sources, and Salt takes that for a module."""
    states = tmp_path / "salt"
    shutil.copytree(ROOT / "salt", states, ignore=shutil.ignore_patterns("__pycache__"))
    source = states / "_modules" / "gone.py"
    source.write_text("def say():\n    return True\n", encoding="utf-8")
    prepare(tmp_path / "dev", DEV, states=states)
    asked = [["gone.say", [], {}]]
    assert ask_salt(tmp_path / "dev", asked) == [True]
    py_compile.compile(str(source), doraise=True)
    source.unlink()
    with pytest.raises(OperationError, match="gone.say"):
        ask_salt(tmp_path / "dev", asked)
