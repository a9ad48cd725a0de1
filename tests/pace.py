"""How long something took, by this computer's own pace.

Some promises are times ("503 within a second"). A computer that is busy with something else gives each
process a part of its time only; so what was measured is divided by how much longer work takes, while it is
measured, than it takes alone: by 1.0 on an idle computer.
"""

from __future__ import annotations

import os
import threading
import time

# What this thread has had, and has waited for: nanoseconds on a CPU, and in the queue for one.
_SCHEDULED = "/proc/thread-self/schedstat"
# Seconds of CPU time that are spent to find out. Long enough to be put aside by others.
_WORK = 0.05
# The same while something is measured, where it is spent again and again.
_SAMPLE = 0.01


def slowdown(work: float = _WORK) -> float:
    """
    How much longer ``work`` seconds of CPU time take right now for waiting for a CPU, at least 1.0. Not by the wall
    clock: other threads of this process, which wait for Python's lock in turn, are no busy computer.
    """
    (cpu, waited), begin = _scheduled(), time.thread_time()
    while time.thread_time() - begin < work:
        pass
    cpu_after, waited_after = _scheduled()
    return 1 + (waited_after - waited) / max(1, cpu_after - cpu)


def _scheduled() -> tuple[int, int]:
    with open(_SCHEDULED, encoding="ascii") as file:
        cpu, waited, _ = file.read().split()
    return int(cpu), int(waited)


class Stopwatch:
    """Measures what is done ``with`` it, and the computer's pace meanwhile, every ``apart`` seconds.

    The pace right after would not do: what was measured may have been what kept others busy, and be over,
    or have had the one bad moment.
    """

    def __init__(self, apart: float = 0.05) -> None:
        self._apart = apart

    def __enter__(self) -> Stopwatch:
        self._slowdowns: list[float] = []
        self._ended = threading.Event()
        self._sampling = threading.Thread(target=self._sample, daemon=True)
        self._began = time.monotonic()
        self._sampling.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.monotonic() - self._began
        self._ended.set()
        self._sampling.join()

    def _sample(self) -> None:
        while True:
            self._slowdowns.append(slowdown(_SAMPLE))
            if self._ended.wait(self._apart):
                return

    @property
    def seconds(self) -> float:
        """What an idle computer would have needed for it; of the clock it is :py:attr:`wall`."""
        return self.paced(self.wall)

    def paced(self, seconds: float) -> float:
        """The same of a part of it, measured by whoever did it."""
        return seconds * len(self._slowdowns) / sum(self._slowdowns)


def is_over(began: float, seconds: float) -> bool:
    """
    Whether ``seconds`` have passed, for what is waited for; the pace is asked only when the wall clock
    says so. Also by how many have waited for each CPU in the last minute: the moment in which one
    asks may be the only calm one, and what yields to others (systemd's CPUWeight) has waited longer
    than the one who asks.
    """
    if time.monotonic() - began <= seconds:
        return False
    waiting = os.getloadavg()[0] / (os.cpu_count() or 1)
    return (time.monotonic() - began) / max(slowdown(), waiting) > seconds
