"""Which release is running: version, commit, and hash of the artifact it came from."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path

# In an artifact this file is ROOT/lib/serving/release.py.
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Release:
    """What `/version` answers. `commit` and `sha256` are None where nobody recorded them."""

    version: str
    commit: str | None
    sha256: str | None
    python: str


def read_release(root: Path = ROOT) -> Release:
    """Read ROOT/release.json (the builder's) and ROOT/artifact.sha256 (the installer's).

    `artifact.sha256` holds the hash of the archive in hexadecimal; anything after it, such as
    the file name that sha256sum prints, is ignored. From a source tree, the version is
    `unknown` and the rest is None. Never raises: a damaged file must not stop the
    application, so it counts as absent.
    """
    try:
        recorded = json.loads((root / "release.json").read_text(encoding="utf-8"))
        version, commit = str(recorded["version"]), recorded["commit"]
    except (OSError, ValueError, KeyError, TypeError):
        version, commit = "unknown", None
    try:
        words = (root / "artifact.sha256").read_text(encoding="ascii").split()
        sha256 = words[0] if words else None
    except (OSError, ValueError):
        sha256 = None
    return Release(version, commit, sha256, platform.python_version())
