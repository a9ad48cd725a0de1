"""What a command is told: each setting declared once, by command line and environment alike."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from control.__main__ import PROGRAM
from control.errors import UserError
from control.options import SETTINGS, Options

VARIABLES = {one.metadata["variables"][0] for one in SETTINGS.values()}


def test_the_environment_is_read_in_one_place(root: Path) -> None:
    readers = {
        str(path.relative_to(root))
        for path in (root / "control").rglob("*.py")
        if re.search(r"\benviron\b|\bgetenv\b", path.read_text(encoding="utf-8"))
    }
    assert readers == {"control/options.py"}


def test_every_setting_of_make_is_an_option(root: Path) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    (line,) = re.findall(r"(?m)^SETTINGS := (.*)$", makefile)
    # Given by its place, to a command that is no target.
    assert set(line.split()) == VARIABLES - {"FILE"}


def test_every_target_of_the_controller_is_a_command(root: Path) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\$\(CONTROL\) ([a-z-]+)", makefile))
    hidden = {name for name, command in PROGRAM.commands.items() if command.hidden}
    assert targets == set(PROGRAM.commands) - hidden - {"export-state", "import-state"}


@pytest.mark.parametrize("name", PROGRAM.commands)
def test_every_command_says_what_it_does_and_which_variable_each_option_is(name: str) -> None:
    command = PROGRAM.commands[name]
    text = command.get_help(click.Context(command, info_name=name))
    assert re.search(r"(?m)^  [A-Z].*\.", text), "no help of its own"
    for option in command.params:
        if isinstance(option, click.Option) and option.name != "help":
            variable = str(option.name).upper()
            assert variable in VARIABLES
            assert f"[{variable}=" in " ".join(str(option.help).split())


def test_the_command_line_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "of the environment")
    monkeypatch.setenv("TEST", "1")
    monkeypatch.setenv("SLS", "")
    options = Options.read({"host": "typed"}, ["host", "test", "sls"])
    assert (options.host, options.test, options.sls) == ("typed", True, "")


def test_what_a_command_does_not_take_changes_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FOLLOW", "banana")
    assert Options.read({}, ["topology"]).follow is False
    with pytest.raises(UserError, match="FOLLOW=banana: use FOLLOW=1 to go on showing") as caught:
        Options.read({}, ["follow"])
    assert caught.value.code == 2


def test_a_shell_completes_commands_options_and_topologies(root: Path) -> None:
    def complete(words: str) -> list[str]:
        done = subprocess.run(
            [root / "bin" / "control"],
            env={
                "PATH": "/usr/bin:/bin",
                "_CONTROL_COMPLETE": "bash_complete",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            },
            cwd="/", capture_output=True, text=True, check=True,
        )  # fmt: skip
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert complete("control ro") == ["rollback", "rotate"]
    assert complete("control apply --ve") == ["--verbose"]
    assert {"dev", "dev12"} <= set(complete("control up --topology de"))
