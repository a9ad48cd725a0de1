"""Load of one test never meets that of another, and one that is killed holds up nobody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Sends load ten times; says who else did meanwhile. Nested, as a test of a test's helpers is.
LOADER = """
import sys, pathlib; sys.path[:0] = [sys.argv[1], sys.argv[2]]; import turns
folder = pathlib.Path(sys.argv[3])
turns.LOCK = folder / "load.lock"
for _ in range(10):
    with turns.one_load(), turns.one_load():
        seen = folder / f"in-{sys.argv[4]}"
        seen.touch()
        print(sorted(path.name for path in folder.glob("in-*") if path != seen))
        seen.unlink()
"""
KILLED = LOADER.replace("        seen.touch()", "        print('in', flush=True); input()")


def start(program: str, folder: Path, name: str) -> subprocess.Popen[str]:
    machine = str(ROOT / "tests" / "machine")
    words = [sys.executable, "-c", program, str(ROOT), machine, str(folder), name]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_one_load_at_a_time(tmp_path: Path) -> None:
    loaders = [start(LOADER, tmp_path, name) for name in "abc"]
    assert [loader.communicate(timeout=300)[0] for loader in loaders] == ["[]\n" * 10] * 3


def test_who_is_killed_while_it_sends_load_holds_up_nobody(tmp_path: Path) -> None:
    killed = start(KILLED, tmp_path, "a")
    assert killed.stdout and killed.stdout.readline() == "in\n"
    killed.kill()
    killed.wait(timeout=300)
    assert start(LOADER, tmp_path, "b").communicate(timeout=300)[0] == "[]\n" * 10
