"""
Gives each unit of a lab machine the share of the CPUs that its CPUWeight= asks for, from the host.

systemd does that itself wherever it has the cpu controller. A container on a host of cgroup v1 does
not have it; the host's own one (/sys/fs/cgroup/cpu, cpu.shares) does the same when it is given the
same tree: https://docs.kernel.org/scheduler/sched-design-CFS.html#group-scheduler-extensions-to-cfs
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

CONTROLLER = Path("/sys/fs/cgroup/cpu")
# cpu.shares that are CPUWeight=100.
SHARES = 1024


def place(path: Path, pid: int | str, weight: int) -> None:
    """Put a process under ``path`` below the controller, whose last group has that weight."""
    group = CONTROLLER / path
    group.mkdir(parents=True, exist_ok=True)
    (group / "cpu.shares").write_text(str(SHARES * weight // 100))
    # It may have ended meanwhile.
    with contextlib.suppress(ProcessLookupError):
        (group / "cgroup.procs").write_text(str(pid))


def processes(host: str) -> Iterator[tuple[str, str]]:
    """(process id, path in the machine's own tree) of each process in the container of that name."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            said = (folder / "cgroup").read_text()
            if found := re.search(rf"^0::/lxc\.payload\.[^/]*\b{host}(/.*)$", said, re.MULTILINE):
                yield folder.name, found[1].strip("/")


class Weights:
    """
    ``with Weights(host) as weights``: the client, this process, comes before the machine, as if it ran
    elsewhere; ``weights.set({unit: weight})`` after each start of a unit. All is undone at the end.
    Does nothing, and ``effective`` is False, where there is no such controller.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self.top = Path(f"bench-{os.getpid()}")
        self.effective = os.access(CONTROLLER / "cgroup.procs", os.W_OK)

    def __enter__(self) -> Weights:
        if self.effective:
            place(self.top / "client", os.getpid(), 1000)
        return self

    def set(self, weights: dict[str, int]) -> None:
        if not self.effective:
            return
        for pid, path in processes(self.host):
            place(self.top / "machine" / path, pid, weights.get(Path(path).name, 100))

    def __exit__(self, *_: object) -> None:
        if not self.effective:
            return
        for folder, _, _ in os.walk(CONTROLLER / self.top, topdown=False):
            # A process that is moved may just have had a child here.
            for _ in range(100):
                for pid in (Path(folder) / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        (CONTROLLER / "cgroup.procs").write_text(pid)
                try:
                    Path(folder).rmdir()
                    break
                except OSError:
                    time.sleep(0.05)
