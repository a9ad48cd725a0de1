"""The controller as a person calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def call(root: Path, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    given = ("TOPOLOGY", "HOST", "SUITE", "PROVIDER", "TEST", "PILLAR", "SLS", "CMD", "SECRET")
    clean = {key: value for key, value in os.environ.items() if key not in given}
    return subprocess.run(
        [sys.executable, "-m", "control", command],
        cwd=root,
        env={**clean, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
