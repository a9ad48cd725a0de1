"""Typing what a page says, as a person does: in a copy of this checkout, in a terminal, prompts answered."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from docs.generate import rehearsal
from docs.generate.runnable import Check
from tests.checkout import copy_checkout

ROOT = Path(__file__).resolve().parents[1]
# What is no text: colours, lines erased.
_OBEYED = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


# What make compares with what is installed (Makefile: $(VENV)/.control, .dev and .cloud).
_INSTALLED_FROM = ("requirements/*.lock", "bootstrap/install.py", "cloud/*/pyproject.toml")


def lend_packages(checkout: Path) -> None:
    """
    What is installed in this checkout, for another one. Its lists of packages are made older than that: make would
    install them anew, there where this checkout has them, and the driver from a folder that goes away.
    """
    for installed in (".venv", ".cache"):
        if (ROOT / installed).exists():
            (checkout / installed).symlink_to((ROOT / installed).resolve())
    for pattern in _INSTALLED_FROM:
        for path in checkout.glob(pattern):
            os.utime(path, (0, 0))


def copy_with_packages(copy: Path) -> Path:
    """:func:`copy_checkout`, with what is installed in this one."""
    copy_checkout(copy)
    lend_packages(copy)
    return copy


class Terminal:
    """
    A terminal with a shell in it. ``answers``: how the last words of a prompt are matched -> what is typed then, of
    which ``\\1`` is the match's first group.
    """

    def __init__(
        self, folder: Path, environment: dict[str, str], answers: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._answers = [(re.compile(rf"{prompt}\Z"), answer) for prompt, answer in answers]
        self._master, slave = pty.openpty()
        settings = termios.tcgetattr(slave)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 250, 0, 0))
        commands, self._commands = os.pipe()
        self._number = 0
        self._rest = ""
        # Of the last command that ended.
        self.output = ""
        # Its commands come by a pipe of their own, a line at a time: standard input is the terminal's, for prompts.
        self._shell = subprocess.Popen(
            ["setsid", "--ctty", "bash", "--norc", "--noprofile", f"/dev/fd/{commands}"],
            stdin=slave, stdout=slave, stderr=slave, pass_fds=(commands,), cwd=folder,
            env={**environment, "TERM": "xterm", "PAGER": "cat", "GIT_PAGER": "cat"},
        )  # fmt: skip
        os.close(slave)
        os.close(commands)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._commands)
        try:
            self._shell.wait(10)
        except subprocess.TimeoutExpired:
            self._end()
        os.close(self._master)

    def begin(self, command: str) -> None:
        """Type a command, and do not wait for its end."""
        self._number += 1
        text = f"{{ {command}\n}}\nprintf '\\n@@%s %s@@\\n' {self._number} $?\n"
        os.write(self._commands, text.encode())

    def end(self, seconds: float) -> tuple[int, str]:
        """Exit code and output of the command that was begun last; 124 when it does not end in time, after which
        nothing more can be typed."""
        output, ended = self._rest, re.compile(rf"\n@@{self._number} (\d+)@@\n")
        answered = 0
        deadline = time.monotonic() + seconds
        while not (found := ended.search(output)):
            left = deadline - time.monotonic()
            if left <= 0 or self._shell.poll() is not None:
                self._end()
                return 124, output
            if not select.select([self._master], [], [], min(left, 5))[0]:
                continue
            try:
                data = os.read(self._master, 65536)
            except OSError:
                # Its last process has closed it.
                self._shell.wait(5)
                continue
            output += _OBEYED.sub("", data.decode(errors="replace"))
            for prompt, answer in self._answers:
                if asked := prompt.search(output, answered):
                    os.write(self._master, asked.expand(answer).encode() + b"\n")
                    answered = len(output)
        self._rest = output[found.end() :]
        self.output = output[: found.start()]
        return int(found[1]), self.output

    def type(self, command: str, seconds: float = 1800) -> tuple[int, str]:
        """Exit code and output of a command, both its outputs in one."""
        self.begin(command)
        return self.end(seconds)

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be typed."""
        return self._shell.poll() is not None

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.write(self._master, b"\x03")

    def _end(self) -> None:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGKILL):
            if self._shell.poll() is None:
                os.killpg(self._shell.pid, number)
                time.sleep(1)


def type_block(
    block: rehearsal.Block, terminal: Terminal, value: Mapping[str, str], seconds: float = 1800
) -> list[str]:
    """What is wrong with what a block's commands print, a line each. ``value``: of what a person fills in."""
    wrong = []
    for check in block.checks():
        command = rehearsal.fill(rehearsal.typed(check.command), value)
        code, output = terminal.type(command, seconds)
        expected = rehearsal.fill(check.expected, value)
        if trouble := Check(check.part, command, expected).wrong(code, output):
            wrong.append(f"{block.ticket} {block.part}: {command}: {trouble}")
        if terminal.is_closed:
            break
    return wrong
