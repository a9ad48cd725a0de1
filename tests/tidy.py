"""What earlier runs left in the temporary folder is removed beside all else.

A pytest plugin (see addopts in pyproject.toml). pytest keeps the folders of the last three runs, and removes
older ones itself, tens of thousands of files, when all tests are over and nothing else is left to do.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

import pytest

# Of earlier runs; the third is this one.
KEPT = 2


def pytest_sessionstart(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return
    folder = Path(tempfile.gettempdir(), f"pytest-of-{getpass.getuser()}")
    runs = sorted(folder.glob("pytest-[0-9]*"), key=lambda run: int(run.name.partition("-")[2]))
    # A run that goes on, of another checkout, has locked its own.
    if old := [run for run in runs[:-KEPT] if not (run / ".lock").exists()]:
        os.spawnvp(os.P_NOWAIT, "nice", ["nice", "rm", "-rf", "--", *map(str, old)])
