"""Command blocks of the tickets, carried out in their order as a newcomer would type them, without a machine.

Those of docs/generate/rehearsal.py's WITHOUT_MACHINES: what needs a checkout alone, and what asks DigitalOcean, for
which the stand-in stands that validates requests by the published API. tests/machine/test_rehearsal.py carries out those
that need machines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from docs.generate import rehearsal, tickets
from tests.rehearse import ROOT, Terminal, copy_with_packages, type_block

sys.path.insert(0, str(ROOT / "cloud" / "saltext-digitalocean" / "tests" / "support"))

from standin_digitalocean import TOKEN, Standin


@pytest.mark.nightly(
    "plans six topologies and builds an artifact; what a ticket names is checked by a unit test"
)
def test_tickets_are_carried_out_in_order(tmp_path: Path) -> None:
    folder = copy_with_packages(tmp_path / "counter")
    programs = tmp_path / "bin"
    programs.mkdir()
    # The team's password store.
    (programs / "pass").write_text(f"#!/bin/sh\necho {TOKEN}\n")
    (programs / "pass").chmod(0o755)
    kept = {
        name: value for name, value in os.environ.items() if not re.match("GIT_|ARTIFACT_", name)
    }
    blocks = [
        block
        for ticket in rehearsal.in_order(tickets.load())
        for block in rehearsal.blocks(ticket)
        if block.place in rehearsal.WITHOUT_MACHINES
    ]
    assert len(blocks) >= 13
    with Standin(pace=0.05, lag=0.02) as api:
        environment = {
            **kept,
            **api.environment(),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
        }
        begin = "git init -q -b main && git config user.name T && git config user.email t@example.org && git add -A && git commit -qm Begin"
        subprocess.run(["bash", "-c", begin], cwd=folder, env=environment, check=True)
        with Terminal(folder, environment) as terminal:
            wrong = [
                trouble
                for block in blocks
                for trouble in type_block(block, terminal, {"prod": "prod"})
            ]
        assert wrong == []
        assert api.names() == [], "a plan makes nothing"


def test_a_copy_of_the_checkout_never_installs_into_this_one(tmp_path: Path) -> None:
    """Both have the same packages: it once left the driver's in a folder that went away with the test."""
    folder = copy_with_packages(tmp_path / "counter")
    line = ["make", "--question", ".venv/.control", ".venv/.dev", ".venv/.cloud"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_terminal_answers_prompts_and_keeps_what_a_shell_keeps(tmp_path: Path) -> None:
    prompts = [(r"type (\w+) to confirm: ", r"\1")]
    with Terminal(tmp_path, dict(os.environ), prompts) as terminal:
        ask = "read -p 'type live to confirm: ' said </dev/tty; test -t 0 && echo \"said $said\"; false"
        assert terminal.type(ask) == (1, "type live to confirm: said live\n")
        terminal.type("mkdir -p below && cd below && kept=1")
        assert terminal.type("echo ${PWD##*/} $kept") == (0, "below 1\n")
        terminal.begin("trap 'echo ended' INT; sleep 100; trap - INT")
        time.sleep(0.5)
        terminal.interrupt()
        assert "ended" in terminal.end(20)[1]
        assert terminal.type("sleep 30", seconds=0.5)[0] == 124
