"""Copies of this checkout, for tests that change one."""

from __future__ import annotations

import shutil
from pathlib import Path

from control import git

ROOT = Path(__file__).resolve().parents[1]


def copy_checkout(target: Path) -> None:
    """The checkout as it is now, whatever is committed, as a clone has it: what git knows of, with its times, and no more."""
    names = git.list_files(ROOT)
    assert names, f"{ROOT} is no git checkout"
    for name in names:
        source = ROOT / name
        # One that is gone is still known to git.
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)
