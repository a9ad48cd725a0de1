"""How long something took, by this computer's own pace.

Some promises are times ("503 within a second"). A computer that is busy with something else gives each
process a part of its time only; so what was measured is divided by how much longer a fixed amount of
work takes right now than it takes alone: by 1.0 on an idle computer.
"""

from __future__ import annotations

import time

# Seconds of CPU time that are spent to find out. Long enough to be put aside by others.
_WORK = 0.05


def slowdown() -> float:
    """Wall clock over CPU time of a piece of work right now, at least 1.0."""
    wall, work = time.monotonic(), time.thread_time()
    while time.thread_time() - work < _WORK:
        pass
    return max(1.0, (time.monotonic() - wall) / _WORK)


def since(began: float) -> float:
    """Seconds since ``began`` (time.monotonic()), by what an idle computer would have needed."""
    return (time.monotonic() - began) / slowdown()


def is_over(began: float, seconds: float) -> bool:
    """Whether ``seconds`` have passed; the pace is asked only when the wall clock says so."""
    return time.monotonic() - began > seconds and since(began) > seconds
