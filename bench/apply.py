#!/usr/bin/env python3
"""
What an apply that changes nothing costs on one machine and on several, and how long `make status` takes.

    .venv/bin/python bench/apply.py [--topology dev] [--many prod] [--rounds 5] [--ansible]

Prints a table of bench/README.md. Both topologies are up and converged; they take turns, round by round, with
``--ansible`` also with a playbook of the same kinds of tasks (bench/playbook.py). CPU time is that of the machines and
of the controller together.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

import playbook
from cost import ROOT, Machine, all_machines
from request import ratio

# A machine's CPU time so far, µs.
PROBE = "sed -n 's/^usage_usec //p' /sys/fs/cgroup/cpu.stat"


@dataclass
class Call:
    """One command: seconds to its first byte and to its end, seconds of CPU time."""

    first: float
    whole: float
    spent: float


def spent(several: list[Machine]) -> float:
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    there = sum(int(machine.run(PROBE)) for machine in several)
    return there / 1e6 + own.ru_utime + own.ru_stime


def call(line: list[str], several: list[Machine]) -> Call:
    before, began = spent(several), time.monotonic()
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = process.stdout.read(1)
        first = time.monotonic() - began
        said += process.stdout.read()
    whole = time.monotonic() - began
    # The words of an apply, and of Ansible's recap.
    if process.returncode or re.search(rb"(?m)[1-9]\d* changed|\bchanged=[1-9]", said):
        raise RuntimeError(f"{line}: {said.decode()[-500:]}")
    return Call(first, whole, spent(several) - before)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="dev")
    parser.add_argument("--many", help="a topology of several machines that is up as well")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--ansible",
        action="store_true",
        help="beside a playbook of Ansible's, which `make bench` installs",
    )
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        peer = []
        if given.ansible:
            machine = Machine(given.topology)
            peer = stack.enter_context(playbook.applied_to(machine))
            # What it has to change, once.
            subprocess.run(peer, stdout=subprocess.DEVNULL, check=True)
        measure(given, peer)
    return 0


def measure(given: argparse.Namespace, peer: list[str]) -> None:
    """Print the table. ``peer``: the command of Ansible's, or nothing."""
    names = [given.topology, *([given.many] if given.many else [])]
    there = {name: all_machines(name) for name in names}
    lines = {
        (command, name): ["make", "-s", command, f"TOPOLOGY={name}"]
        for command in ("apply", "status")
        for name in names
    }
    if peer:
        lines["ansible", given.topology] = peer
    calls: dict[tuple[str, str], list[Call]] = {kind: [] for kind in lines}
    for (_, name), line in lines.items():
        call(line, there[name])
    for number in range(given.rounds):
        for kind, line in lines.items():
            calls[kind].append(call(line, there[kind[1]]))
        print(f"{number + 1}/{given.rounds}", file=sys.stderr)

    def middle(kind: tuple[str, str], value: str) -> float:
        return sorted(getattr(one, value) for one in calls[kind])[given.rounds // 2]

    print("| | first byte, s | whole, s | CPU time, s | aim |\n| --- | --- | --- | --- | --- |")
    for command, name in lines:
        aim = "first byte, whole ≤ 1 s" if command == "status" else ""
        words = "Ansible, 93 tasks" if command == "ansible" else f"`make {command}`"
        figures = " | ".join(
            f"{middle((command, name), value):.2f}" for value in ("first", "whole", "spent")
        )
        print(f"| {words}, {name} ({len(there[name])}) | {figures} | {aim} |")
    own = [one.whole for one in calls["apply", given.topology]]
    if given.many:
        many = [one.whole for one in calls["apply", given.many]]
        print(f"| several machines / one, apply | | {ratio(many, own)} | | ≤ 2 |")
    if peer:
        theirs = [one.whole for one in calls["ansible", given.topology]]
        print(f"| Ansible / `make apply` | | {ratio(theirs, own)} | | ≥ 40 |")


if __name__ == "__main__":
    sys.exit(main())
