"""A test that sends load runs alone, and gets its turn although others keep coming."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Shares, again and again, each time noting that it is in and that it is out, until told to stop.
SHARER = """
import sys, pathlib; sys.path.insert(0, sys.argv[1]); import turns
turns.FOLDER = pathlib.Path(sys.argv[2])
seen = turns.FOLDER / f"in-{sys.argv[3]}"
while not (turns.FOLDER / "stop").exists():
    with turns.shared():
        seen.touch(); seen.unlink()
    (turns.FOLDER / f"up-{sys.argv[3]}").touch()
"""
# Wants the whole ten times; says who else was in.
HERMIT = """
import sys, pathlib; sys.path.insert(0, sys.argv[1]); import turns
turns.FOLDER = pathlib.Path(sys.argv[2])
for _ in range(10):
    with turns.shared():
        with turns.alone():
            print(sorted(path.name for path in turns.FOLDER.glob("in-*")))
"""


def test_who_wants_to_be_alone_gets_its_turn_and_is_alone(tmp_path: Path) -> None:
    machine = str(ROOT / "tests" / "machine")

    def start(program: str, name: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", program, machine, str(tmp_path), name]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    sharers = [start(SHARER, "a"), start(SHARER, "b")]
    hermits = []
    try:
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("up-*"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        hermits = [start(HERMIT, "c"), start(HERMIT, "d")]
        said = [hermit.communicate(timeout=30)[0] for hermit in hermits]
    finally:
        (tmp_path / "stop").touch()
        for process in [*sharers, *hermits]:
            process.kill() if process in hermits else process.wait(timeout=10)
    assert said == ["[]\n" * 10] * 2
