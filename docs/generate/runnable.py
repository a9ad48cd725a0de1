"""Command blocks that are run by a test: fences that begin with ```` ```console run ````.

    $ make status         # the shell on your computer, in the checkout
    …haproxy…             # what must be printed; `…` stands for anything
    # redis-admin PING    # as root on the machine
    PONG

A command's expectation are the lines up to the next prompt; none: anything. An exit code other than
0 fails. A command ends at the end of its line, or goes on after a backslash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"(?ms)^( *)```console run\n(.*?)^\1```$")


@dataclass(frozen=True)
class Step:
    """One command. ``where`` is `here` (the controller) or `there` (root on the machine)."""

    where: str
    command: str
    expected: tuple[str, ...]


def blocks(path: Path) -> list[tuple[int, list[Step]]]:
    """
    `(line, steps)` of every runnable block of a page.

    Raises ValueError, naming the page and line, for a block that does not begin with a prompt.
    """
    text = path.read_text(encoding="utf-8")
    found = []
    for block in _BLOCK.finditer(text):
        line = text.count("\n", 0, block.start()) + 1
        margin = len(block.group(1))
        steps: list[Step] = []
        going_on = False
        for raw in block.group(2).splitlines():
            shown = raw[margin:]
            if going_on:
                last = steps.pop()
                steps.append(Step(last.where, last.command + "\n" + shown, ()))
            elif shown[:2] in ("$ ", "# "):
                steps.append(Step("here" if shown[0] == "$" else "there", shown[2:], ()))
            elif not steps:
                raise ValueError(f"{path.name}:{line}: a runnable block begins with `$ ` or `# `")
            elif shown.strip():
                last = steps.pop()
                steps.append(Step(last.where, last.command, (*last.expected, shown)))
            going_on = shown.endswith("\\") and not steps[-1].expected
        found.append((line, steps))
    return found


def missing(expected: tuple[str, ...], printed: str) -> list[str]:
    """Lines of ``expected`` that do not follow each other in ``printed``."""
    at, gone = 0, []
    lines = printed.splitlines()
    for wanted in expected:
        pattern = ".*".join(re.escape(part) for part in wanted.strip().split("…"))
        hit = next(
            (n for n in range(at, len(lines)) if re.fullmatch(pattern, lines[n].strip())), None
        )
        if hit is None:
            gone.append(wanted)
        else:
            at = hit + 1
    return gone


# What a person fills in, each a word of its own: the machine, the topology, what the alert names.
PLACEHOLDERS = ("machine", "NAME", "UNIT", "JAIL")
# They go on until somebody ends them.
_ENDLESS = re.compile(
    r"^redis-admin --latency-history|\b(journalctl|tail)\b[^|]* (-[a-zA-Z]*[fF][a-zA-Z]*|--follow)( |$)|\bFOLLOW=1\b"
)
# Their exit code 1 is an answer: what they look for is not there, or went while they looked. Of
# `systemctl status` 3 and 4 are: it is not on, and this machine has none.
_SEEKING = ("grep", "zgrep", "journalctl", "du ", "ps ")
# Last line of an apply, once for each machine: what is expected is expected of all of them.
_OF_EACH_MACHINE = re.compile(r"\d+ (?:would change|changed), \d+ failed")


@dataclass(frozen=True)
class Check:
    """One command of a runbook. ``part``: its heading; ``expected``: what has to be printed, or ''."""

    part: str
    command: str
    expected: str = ""

    def wrong(self, code: int, said: str) -> str:
        """What is wrong with exit code ``code`` (124: ended after a while) and output; '' if nothing."""
        stages = [one.strip() for one in re.split(r"(?<!\|)\|(?!\|)", self.command)]
        fine = code == 0
        if code == 124:
            fine = bool(_ENDLESS.search(self.command))
        elif code == 141:
            # Its last part had enough.
            fine = stages[-1].startswith("head")
        elif self.part == "Look here":
            seeks = code == 1 and any(stage.startswith(_SEEKING) for stage in stages)
            fine = fine or seeks or (code in (3, 4) and self.command.startswith("systemctl status"))
        if not fine:
            return f"exit {code}: {said.strip()}"
        pattern = ".*".join(re.escape(piece) for piece in self.expected.split("…"))
        printed = said.replace("\r", "").strip()
        if self.expected and not re.fullmatch(pattern, printed, re.DOTALL):
            return f"prints no {self.expected!r}: {printed}"
        wanted = _OF_EACH_MACHINE.findall(self.expected)
        if others := [
            one for one in _OF_EACH_MACHINE.findall(printed) if wanted and one not in wanted
        ]:
            return f"prints {others[0]!r} too: {printed}"
        return ""


def filled(command: str, values: dict[str, str]) -> str:
    """``command`` with ``values``, by PLACEHOLDERS."""
    words = "|".join(PLACEHOLDERS)
    return re.sub(rf"(?<![\w.-])(?:{words})(?![\w.-])", lambda hit: values[hit[0]], command)


def of_runbook(path: Path) -> list[Check]:
    """
    Commands of a runbook's `Look here` and `Verify`, one a line, without their comments, each of them;
    what is to be filled in as it stands (PLACEHOLDERS). `# … -> TEXT` after a command: that is what it prints,
    all of it, where `…` in TEXT stands for anything.
    """
    text = path.read_text(encoding="utf-8")
    found = []
    for title in ("Look here", "Verify"):
        part = re.search(rf"(?ms)^## {title}\n(.*?)(?=^## |\Z)", text)
        for block in re.findall(r"(?ms)^```\w*\n(.*?)^```$", part.group(1) if part else ""):
            for line in block.splitlines():
                command = re.sub(r"\s{2,}#.*$|^#.*$", "", line).strip()
                if command:
                    says = re.search(r"\s{2,}#(?:[^#]*)? -> (.*)$", line)
                    found.append(Check(title, command, says.group(1).strip() if says else ""))
    return found
