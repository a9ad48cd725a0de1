"""tests/machine/controller.py: what a copy of the controller does and says is what `make` does and says."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "machine"))

import controller  # noqa: E402

# Of the environment of whoever runs the tests; by the first two, a make that was started by a make says its number.
UNSET = ("MAKELEVEL", "MAKEFLAGS", "HOST", "PROVIDER", "VERBOSE", "PILLAR", "SLS", "TEST")
NOTHING = dict.fromkeys(UNSET, "")


@pytest.fixture(scope="module")
def copies() -> Iterator[controller.Controller]:
    it = controller.Controller()
    yield it
    assert it.close() == 0, "it ends with who has started it"


@pytest.mark.parametrize(
    ("command", "settings", "says"),
    [
        ("url", {"TOPOLOGY": "dev"}, "https://"),
        ("url", {"TOPOLOGY": "prdo"}, "did you mean prod?"),
        ("apply", {"TOPOLOGY": "prod", "HOST": "app9"}, "HOST=app9: no such machine"),
        ("deploy", {"TOPOLOGY": "dev", "VERSION": "../1"}, "VERSION=../1"),
        ("url", {"TOPOLOGY": "dev", "PYTHONWARNINGS": "error", "LC_ALL": "C"}, "https://"),
    ],
)
def test_a_copy_does_and_says_what_make_does(
    copies: controller.Controller, command: str, settings: dict[str, str], says: str
) -> None:
    environment = {**os.environ, **NOTHING, **settings}
    typed = subprocess.run(
        ["make", command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    copied = copies.run(command, environment, 60)
    assert says in typed.stdout + typed.stderr
    assert copied.returncode == typed.returncode
    assert copied.stdout == typed.stdout
    assert copied.stderr == re.sub(r"\[Makefile:\d+: ", "[", typed.stderr)


def test_what_takes_too_long_is_given_up(copies: controller.Controller) -> None:
    environment = {**os.environ, **NOTHING, "TOPOLOGY": "kitchen"}
    copies.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            copies.run("url", environment, 0.1)
    finally:
        copies.process.send_signal(signal.SIGCONT)
    assert "kitchen" in copies.run("url", environment, 60).stderr


def test_what_nobody_waits_for_is_ended() -> None:
    here, there = socket.socketpair()
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as command:
        here.close()
        with there:
            controller.answer(there, command.pid)
        assert not Path(f"/proc/{command.pid}").exists()


def test_commands_are_those_that_are_the_controllers_alone() -> None:
    assert controller.commands() >= {"apply", "status", "deploy", "url"}
    assert not controller.commands() & {"test", "docs", "artifact", "help"}


def test_two_of_one_process_are_not_in_each_others_way(copies: controller.Controller) -> None:
    other = controller.Controller()
    assert other.run("url", {**os.environ, **NOTHING, "TOPOLOGY": "kitchen"}, 60).returncode == 2
    assert other.close() == 0
