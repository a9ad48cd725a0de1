#!/usr/bin/env python3
"""
What an apply that changes nothing costs on one machine and on several, and how long `make status` takes.

    .venv/bin/python bench/apply.py [--topology dev] [--many prod] [--rounds 5]

Prints a table of bench/README.md. Both topologies are up and converged; they take turns, round by round.
CPU time is that of the machines and of the controller together.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

from cost import ROOT, Machine
from request import ratio

# A machine's CPU time so far, µs.
PROBE = "sed -n 's/^usage_usec //p' /sys/fs/cgroup/cpu.stat"


@dataclass
class Call:
    """One command: seconds to its first byte and to its end, seconds of CPU time."""

    first: float
    whole: float
    spent: float


def machines(topology: str) -> list[Machine]:
    config = (ROOT / ".lab" / topology / "ssh_config").read_text(encoding="utf-8")
    return [Machine(topology, host) for host in re.findall(r"(?m)^Host (\w\S*)", config)]


def spent(several: list[Machine]) -> float:
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    there = sum(int(machine.run(PROBE)) for machine in several)
    return there / 1e6 + own.ru_utime + own.ru_stime


def call(command: str, topology: str, several: list[Machine]) -> Call:
    before, began = spent(several), time.monotonic()
    with subprocess.Popen(
        ["make", "-s", command],
        cwd=ROOT,
        env={**os.environ, "TOPOLOGY": topology},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read(1)
        first = time.monotonic() - began
        said += process.stdout.read()
    whole = time.monotonic() - began
    if process.returncode or (command == "apply" and re.search(rb"(?m)[1-9]\d* changed", said)):
        raise RuntimeError(f"make {command} TOPOLOGY={topology}: {said.decode()[-500:]}")
    return Call(first, whole, spent(several) - before)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="dev")
    parser.add_argument("--many", help="a topology of several machines that is up as well")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    names = [given.topology, *([given.many] if given.many else [])]
    there = {name: machines(name) for name in names}
    kinds = [(command, name) for command in ("apply", "status") for name in names]
    calls: dict[tuple[str, str], list[Call]] = {kind: [] for kind in kinds}
    for command, name in kinds:
        call(command, name, there[name])
    for number in range(given.rounds):
        for command, name in kinds:
            calls[command, name].append(call(command, name, there[name]))
        print(f"{number + 1}/{given.rounds}", file=sys.stderr)

    def middle(kind: tuple[str, str], value: str) -> float:
        return sorted(getattr(one, value) for one in calls[kind])[given.rounds // 2]

    print("| | first byte, s | whole, s | CPU time, s | aim |\n| --- | --- | --- | --- | --- |")
    for command, name in kinds:
        aim = "first byte, whole ≤ 1 s" if command == "status" else ""
        figures = " | ".join(
            f"{middle((command, name), value):.2f}" for value in ("first", "whole", "spent")
        )
        print(f"| `make {command}`, {name} ({len(there[name])}) | {figures} | {aim} |")
    if given.many:
        wholes = [
            [one.whole for one in calls["apply", name]] for name in (given.many, given.topology)
        ]
        print(f"| several machines / one, apply | | {ratio(*wholes)} | | ≤ 2 |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
