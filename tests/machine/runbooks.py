"""The commands of runbooks, typed on a healthy machine."""

from __future__ import annotations

import base64
import contextlib
import functools
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from lab_machine import ROOT, Lab

sys.path.insert(0, str(ROOT))

from docs.generate import facts, runnable

# Those that have commands.
PAGES = [page for page in sorted((ROOT / "docs" / "runbooks").glob("*.md"))
         if runnable.of_runbook(page)]  # fmt: skip
assert PAGES
# Seconds in which a healthy machine says at last that it is.
AT_MOST = 100


def pages_of(*formulas: str) -> list[Path]:
    """Those of the alerts of these formulas."""
    names = {one["alert"] for one in facts.alerts() if one["formula"] in formulas}
    found = [page for page in PAGES if page.stem in names]
    assert found, formulas
    return found


def failing(lab: Lab, pages: Iterable[Path]) -> list[str]:
    """
    Look here and Verify of every page, word by word: no unknown program, file or unit at 3 a.m., and
    what a page says is printed is printed. A line for each that fails, with its page.
    """
    asked: dict[runnable.Check, list[str]] = {}
    for page in pages:
        for check in runnable.of_runbook(page):
            asked.setdefault(check, []).append(page.name)
    there = [check for check in asked if not check.command.startswith("make ")]
    values = {"machine": lab.host, "NAME": lab.topology, "UNIT": "redis-server", "JAIL": "sshd"}
    # Where root's login begins.
    script = "cd /root\n" + "\n".join(
        f"timeout -k 1 20 bash -o pipefail -c {shlex.quote(runnable.filled(check.command, values))}"
        " </dev/null >/tmp/said 2>&1;"
        f" printf '%s %s %s\\n' {number} $? \"$(head -c 20000 /tmp/said | base64 -w0)\""
        for number, check in enumerate(there)
    )
    answers: dict[runnable.Check, tuple[int, str]] = {}
    for line in lab.run("bash -s", data=script, timeout=300).splitlines():
        number, code, *said = line.split()
        printed = base64.b64decode(said[0]).decode(errors="replace") if said else ""
        answers[there[int(number)]] = (int(code), printed)
    assert list(answers) == there, answers

    def here(check: runnable.Check) -> bool:
        done = subprocess.run(
            ["timeout", "-k", "1", "100",
             "bash", "-o", "pipefail", "-c", runnable.filled(check.command, values)],
            cwd=ROOT, stdin=subprocess.DEVNULL,
            env=lab.environment,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        answers[check] = (done.returncode, done.stdout + done.stderr)
        return not check.wrong(*answers[check])

    for check in set(asked) - set(there):
        # On a crowded computer a health check may time out, or an alert be a moment from its end: it is asked again, as
        # an operator would. What does not come right is told below.
        with contextlib.suppress(AssertionError):
            lab.wait(check.command, functools.partial(here, check), AT_MOST)
    return [
        f"{', '.join(names)}: {check.command}: {wrong[-4000:]}"
        for check, names in asked.items()
        if (wrong := check.wrong(*answers[check]))
    ]
