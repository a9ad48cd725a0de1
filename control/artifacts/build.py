"""Building the artifact of an application of this checkout, or of another folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ..application import COUNTER, Application
from ..errors import OperationError, UserError
from ..options import Options
from ..paths import ROOT
from . import files, signing


def build_artifact(options: Options, application: Application = COUNTER) -> str:
    """Build the artifact unless it is there; its version. UserError for an application of which only the name is known."""
    program = ROOT / "webapp" / "build.py"
    command = [sys.executable, str(program), "--quiet", "--out", str(ROOT / "dist")]
    if application.folder:
        command += ["--app", str(application.folder)]
    elif not application.is_counter:
        raise UserError(
            f"APP={application.name}: its folder is needed, the one with its app.toml", 2
        )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OperationError(
            f"the artifact could not be built:\n{(done.stderr or done.stdout).strip()}"
        )
    # What is no error and yet is to be known.
    print(done.stderr, end="", file=sys.stderr)
    path = Path(done.stdout.strip())
    signing.sign_built(path, options, application.name)
    return files.version_in(path.name, application.name)
