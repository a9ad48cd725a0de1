"""What the caller's computer happens to have set, which must change nothing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .errors import Refused

ROOT = Path(__file__).resolve().parent.parent
# Over what any of git's own files of settings says (git-config(1)).
GIT = ("git", "-c", "core.excludesFile=/dev/null", "-c", "core.fsmonitor=false")


def settle(addresses: Iterable[str] = ()) -> None:
    """The same as a run of Salt begins with on a machine; ``addresses`` as there."""
    path = ROOT / "salt" / "_executors" / "environment.py"
    spec = importlib.util.spec_from_file_location("environment", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.settle(os.environ, addresses)


def git_files(folder: Path, *patterns: str) -> list[str] | None:
    """
    Paths below ``folder`` that git knows or does not ignore, sorted; None where there is no git
    repository. Refused when git will not read the one that there is.
    """
    listed = subprocess.run(
        [*GIT, "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns],
        cwd=folder,
        env={**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return sorted({name for name in listed.stdout.split("\0") if name})
    if "not a git repository" not in listed.stderr:
        raise Refused(f"git ls-files in {folder}: {listed.stderr.strip()}")
    return None
