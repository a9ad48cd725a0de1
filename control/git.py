"""git, whatever the caller's own settings of it are."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .errors import OperationError
from .options import child_environment

# Over what any of git's own files of settings says (git-config(1)).
GIT = ("git", "-c", "core.excludesFile=/dev/null", "-c", "core.fsmonitor=false")


def list_files(folder: Path, *patterns: str) -> list[str] | None:
    """
    Paths below ``folder`` that git knows or does not ignore, sorted; None where there is no git
    repository. OperationError when git will not read the one that there is.
    """
    listed = subprocess.run(
        [*GIT, "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns],
        cwd=folder,
        env=child_environment(LC_ALL="C.UTF-8", LANGUAGE=""),
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return sorted({name for name in listed.stdout.split("\0") if name})
    if "not a git repository" not in listed.stderr:
        raise OperationError(f"git ls-files in {folder}: {listed.stderr.strip()}")
    return None
