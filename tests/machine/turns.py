"""
One load at full speed at a time: tests of several machines run side by side, but what sends as much as
it can waits for another such load to end, so that what it measures is its own machine's answers.

Nothing else waits, also no load of a fixed rate: an exact count, or an answer to every request, must
hold on a busy computer too.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from tests.timings import measured

LOCK = Path(__file__).resolve().parents[2] / ".cache" / "load.lock"
_depth = 0


@contextlib.contextmanager
def one_load() -> Iterator[None]:
    """No other process of this checkout's tests sends at full speed during the block; can be nested."""
    global _depth
    LOCK.parent.mkdir(exist_ok=True)
    with open(LOCK, "w", encoding="utf-8") as handle:
        if not _depth:
            with measured("turn", "waits for other load to end"):
                fcntl.flock(handle, fcntl.LOCK_EX)
        _depth += 1
        try:
            with measured("turn", "sends load"):
                yield
        finally:
            _depth -= 1
