"""Command blocks of the tickets, carried out in their order as a newcomer would type them, without a machine.

Those of docs/generate/rehearsal.py's CARRIED_OUT: what needs a checkout alone, and what asks DigitalOcean, for
which the stand-in stands that validates requests by the published API. docs/tickets/rehearsal.md lists who carries out the others.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate import rehearsal, tickets

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "cloud" / "saltext-digitalocean" / "tests" / "support"))

from standin_digitalocean import TOKEN, Standin  # noqa: E402

# A whole lint takes a minute of two cores each time: the files that the tickets have changed, and the pipeline's.
NARROWED = {
    "make lint": "lint/run $(git ls-files --modified --others --exclude-standard) .gitlab-ci.yml pillar/topologies/*.yaml"
}


def checkout(place: Path) -> Path:
    """A clone of this checkout as it is now, whatever is committed, with what it has installed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout  # fmt: skip
    copy = place / "counter"
    for name in filter(None, listed.decode().split("\0")):
        source = ROOT / name
        if source.is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            # With its time: make would install everything anew.
            shutil.copy2(source, copy / name, follow_symlinks=False)
    (copy / ".venv").symlink_to((ROOT / ".venv").resolve())
    if (ROOT / ".cache").exists():
        (copy / ".cache").symlink_to((ROOT / ".cache").resolve())
    return copy


def type_in(blocks: list[rehearsal.Block], folder: Path, environment: dict[str, str]) -> list[str]:
    """What is wrong with what the commands print, a line each; all of them in one shell, as one person types them."""
    checks = [(block, check) for block in blocks for check in block.checks()]
    script = []
    for number, (_, check) in enumerate(checks):
        command = NARROWED.get(check.command, check.command)
        script.append(f"{{ {command}\n}} 2>&1 </dev/null\necho; echo '@@{number} '$?")
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=1800,
    )  # fmt: skip
    wrong, left = [done.stderr] if done.stderr else [], done.stdout
    for number, (block, check) in enumerate(checks):
        said, found, left = left.partition(f"\n@@{number} ")
        code, _, left = left.partition("\n")
        if not found:
            wrong.append(f"{block.ticket} {block.part}: {check.command}: was not reached")
            break
        if trouble := check.wrong(int(code), said):
            wrong.append(f"{block.ticket} {block.part}: {check.command}: {trouble}")
    return wrong


@pytest.mark.nightly(
    "plans six topologies and builds an artifact; what a ticket names is checked by a unit test"
)
def test_tickets_are_carried_out_in_order(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    # The team's password store.
    (programs / "pass").write_text(f"#!/bin/sh\necho {TOKEN}\n")
    (programs / "pass").chmod(0o755)
    kept = {
        name: value for name, value in os.environ.items() if not re.match("GIT_|ARTIFACT_", name)
    }
    everything = rehearsal.in_order(tickets.load())
    blocks = [
        block
        for ticket in everything
        for block in rehearsal.blocks(ticket)
        if block.place in rehearsal.CARRIED_OUT
    ]
    assert len(blocks) >= 12
    with Standin(pace=0.05, lag=0.02) as api:
        environment = {
            **kept,
            **api.environment(),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
        }
        begin = "git init -q -b main && git config user.name T && git config user.email t@example.org && git add -A && git commit -qm Begin"
        subprocess.run(["bash", "-c", begin], cwd=folder, env=environment, check=True)
        assert type_in(blocks, folder, environment) == []
        assert api.names() == [], "a plan makes nothing"
