"""Building the artifact of this checkout."""

from __future__ import annotations

import subprocess
import sys

from ..errors import OperationError
from ..options import Options
from ..paths import ROOT
from . import files, signing


def build_artifact(options: Options) -> str:
    """Build the artifact unless it is there; its version."""
    command = [sys.executable, str(ROOT / "webapp" / "build.py"), "--out", str(ROOT / "dist")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OperationError(
            f"the artifact could not be built:\n{(done.stderr or done.stdout).strip()}"
        )
    version = subprocess.run(
        [*command, "--print-version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    signing.sign_built(ROOT / "dist" / files.archive_name(version), options)
    return version
