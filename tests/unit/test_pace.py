"""A time that is promised is judged alike on an idle computer and on a busy one."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pace


def test_work_on_a_busy_computer_is_judged_by_what_an_idle_one_would_need() -> None:
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(2 * (os.cpu_count() or 1))
    ]

    def stop() -> None:
        for loop in loops:
            loop.kill()
            loop.wait(timeout=10)

    try:
        deadline = time.monotonic() + 120
        while pace.slowdown() < 1.7:
            assert time.monotonic() < deadline, "the loops take no CPU time"
        with pace.Stopwatch() as watch:
            work = time.thread_time()
            while time.thread_time() - work < 0.1:
                pass
            # Judged by what it was while it was measured, not by what comes after.
            stop()
    finally:
        stop()
    assert watch.seconds < watch.wall
    assert watch.wall >= 0.1
    assert watch.paced(1) < 0.75, watch.paced(1)


def test_no_computer_is_given_less_time_than_was_promised() -> None:
    assert pace.slowdown() >= 1.0
    began = time.monotonic()
    assert not pace.is_over(began, 60)
    assert pace.is_over(began - 3600, 60), "and none is waited for without end"
