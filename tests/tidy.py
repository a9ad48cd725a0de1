"""What earlier runs left in the temporary folder is removed beside all else.

A pytest plugin (see addopts in pyproject.toml). pytest keeps the folders of the last three runs, and removes
older ones itself, tens of thousands of files, when all tests are over and nothing else is left to do.
"""

from __future__ import annotations

import getpass
import os
import re
import tempfile
from pathlib import Path

import pytest

# Of earlier runs; the third is this one.
KEPT = 2


def pytest_sessionstart(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return
    folder = Path(tempfile.gettempdir(), f"pytest-of-{getpass.getuser()}")
    own = [run for run in folder.glob("pytest-*") if re.fullmatch(r"pytest-\d+", run.name)]
    runs = sorted(own, key=lambda run: int(run.name.partition("-")[2]))
    # As pytest: nothing in what another account could have put there, nor what a run that goes on has locked.
    if folder.is_symlink() or not runs or folder.stat().st_uid != os.getuid():
        return
    if old := [str(run) for run in runs[:-KEPT] if not (run / ".lock").exists()]:
        remove = ["nice", "rm", "-rf", "--one-file-system", "--", *old]
        os.spawnvp(os.P_NOWAIT, remove[0], remove)
