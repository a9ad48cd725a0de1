"""
Tests of several machines run side by side; those that send load have the computer to themselves.

Each test holds a share of one lock; :func:`alone` trades it for the whole, so that what a load test
measures is its own machine and not the neighbour's package installation. Whoever waits for the
whole stands in the door (a second lock): new shares wait behind it, so that it gets its turn.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tests.timings import measured

FOLDER = Path(__file__).resolve().parents[2] / ".cache"
_held: list[IO[str]] = []


@contextlib.contextmanager
def _locked(name: str, how: int) -> Iterator[IO[str]]:
    FOLDER.mkdir(exist_ok=True)
    with open(FOLDER / name, "w", encoding="utf-8") as handle:
        fcntl.flock(handle, how)
        yield handle


def _take(handle: IO[str], how: int) -> None:
    with _locked("door.lock", fcntl.LOCK_EX):
        fcntl.flock(handle, how)


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """A share of the computer, for as long as the block."""
    if _held:
        yield
        return
    FOLDER.mkdir(exist_ok=True)
    with open(FOLDER / "turn.lock", "w", encoding="utf-8") as handle:
        _take(handle, fcntl.LOCK_SH)
        _held.append(handle)
        try:
            yield
        finally:
            _held.clear()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """The computer to oneself, for as long as the block, inside or outside :func:`shared`."""
    with shared():
        # Given back first: two that held their shares and wanted the whole would wait for ever.
        fcntl.flock(_held[0], fcntl.LOCK_UN)
        with measured("turn", "waits for the computer alone"):
            _take(_held[0], fcntl.LOCK_EX)
        try:
            with measured("turn", "has the computer alone"):
                yield
        finally:
            fcntl.flock(_held[0], fcntl.LOCK_SH)
