"""Files of this computer that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write(path: Path, data: str | bytes, mode: int = 0o600) -> None:
    """
    Replace ``path``. Beside it under a name of its own, for several commands may write the same; on the disk,
    then renamed. Never for a moment readable by more than ``mode`` says (mkstemp makes it 0600).
    """
    handle, staged = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.rename(staged, path)
    except BaseException:
        os.unlink(staged)
        raise
