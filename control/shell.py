"""Programs of this computer."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from .errors import OperationError


def say(text: str) -> None:
    """A line of progress, at once."""
    print(text, flush=True)


def sudo(command: Sequence[str]) -> list[str]:
    """``command`` as root: as it is for root, through sudo for anybody else."""
    return list(command) if os.geteuid() == 0 else ["sudo", *command]


def run(command: Sequence[str], cwd: str | None = None) -> None:
    """Run it silently; OperationError with its last words when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        raise OperationError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
