#!/usr/bin/env python3
"""
What a request costs, beside the stack that tutorials end with (bench/peer), on the same machine.

    .venv/bin/python bench/request.py [--topology dev] [--rounds 5] [--seconds 8] [--beside prod]

Prints the tables of bench/README.md. The naive stack is started on the machine for the time of the run,
with the libraries of the installed release, and removed after. Needs `wrk` (Debian package).
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cost import Machine

PEER = Path(__file__).parent / "peer"
PORT = 18443
# The three processes of the naive stack, each a unit of its own.
UNITS = {
    "app": "env PYTHONPATH=$(echo /opt/counter/releases/*/lib | cut -d' ' -f1) "
    "python3 /run/peer/app.py 18001 18379",
    "haproxy": "haproxy -db -f /run/peer/haproxy.cfg",
    "redis": "redis-server /run/peer/redis.conf",
}
# Prints {unit: processor time so far, µs}; instances of a template are added up.
PROBE = """
for stat in $(find /sys/fs/cgroup/system.slice -name cpu.stat -path '*.service/*'); do
    unit=$(basename "$(dirname "$stat")" .service)
    echo "${unit%@*} $(sed -n 's/^usage_usec //p' "$stat")"
done
"""


@dataclass
class Run:
    """One load: requests answered, requests a second, p99 in ms, {unit: µs a request}."""

    requests: int
    rate: float
    p99: float
    spent: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.spent.values())


def wrk(url: str, seconds: float) -> tuple[int, float, float]:
    """(requests, requests a second, p99 in ms) of 32 clients. Raises RuntimeError for any error."""
    command = ["wrk", "-t1", "-c32", f"-d{seconds:g}s", "--latency", url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if trouble := re.search(r"Non-2xx.*|Socket errors.*", said):
        raise RuntimeError(f"{url}: {trouble[0]}")
    requests = re.search(r"(\d+) requests in ([\d.]+)s", said)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    if not requests or not p99:
        raise RuntimeError(said)
    factor = {"us": 0.001, "ms": 1.0, "s": 1000.0}[p99[2]]
    return int(requests[1]), int(requests[1]) / float(requests[2]), float(p99[1]) * factor


def processor_time(machines: list[Machine]) -> dict[str, int]:
    """{unit: µs so far} of all services of these machines together."""
    spent: dict[str, int] = {}
    for machine in machines:
        for line in machine.run(PROBE).splitlines():
            unit, microseconds = line.split()
            spent[unit] = spent.get(unit, 0) + int(microseconds)
    return spent


def measure(machines: list[Machine], url: str, seconds: float, peer: bool) -> Run:
    """One load on ``url``. What it spent is that of the naive stack's units, or of all others."""
    before = processor_time(machines)
    requests, rate, p99 = wrk(url, seconds)
    time.sleep(0.5)  # what was logged is on its way
    after = processor_time(machines)
    spent = {
        unit: (after[unit] - before.get(unit, 0)) / requests
        for unit in after
        if unit.startswith("peer-") == peer and unit != "ssh"
    }
    return Run(requests, rate, p99, spent)


@contextlib.contextmanager
def naive_stack(machine: Machine) -> Iterator[str]:
    """The naive stack's URL, while it is up on that machine."""
    machine.run("mkdir -p /run/peer")
    for file in PEER.iterdir():
        machine.run(f"cat > /run/peer/{file.name}", file.read_text())
    try:
        machine.run(
            f"firewall-cmd -q --zone=stack --add-port={PORT}/tcp || firewall-cmd -q --add-port={PORT}/tcp"
        )
        for unit, command in UNITS.items():
            machine.run(
                f'systemd-run -q --unit=peer-{unit} -p LimitNOFILE=20000 sh -c "exec {command}"'
            )
        url = f"https://{machine.address}:{PORT}/"
        for _ in range(100):
            with contextlib.suppress(subprocess.CalledProcessError):
                subprocess.run(["curl", "-skf", url], check=True, capture_output=True)
                break
            time.sleep(0.2)
        yield url
    finally:
        machine.run(
            f"systemctl stop {' '.join(f'peer-{unit}' for unit in UNITS)}; firewall-cmd -q --zone=stack --remove-port={PORT}/tcp || firewall-cmd -q --remove-port={PORT}/tcp; rm -r /run/peer"
        )


def median(runs: list[Run], unit: str) -> float:
    return statistics.median(run.spent.get(unit, 0.0) for run in runs)


def table(kinds: dict[str, list[Run]]) -> None:
    """Print the medians of each kind, and each round's ratio to the naive stack's."""
    print("| | requests/s | p99, ms | µs a request | of that |\n| --- | --- | --- | --- | --- |")
    for kind, runs in kinds.items():
        units = sorted({u for run in runs for u in run.spent}, key=lambda u: -median(runs, u))
        shares = ", ".join(
            f"{unit.removeprefix('peer-')} {median(runs, unit):.0f}"
            for unit in units
            if median(runs, unit) >= 1
        )
        print(
            f"| {kind} | {statistics.median(r.rate for r in runs):,.0f}"
            f" | {statistics.median(r.p99 for r in runs):.1f}"
            f" | {statistics.median(r.total for r in runs):.0f} | {shares} |"
        )


def ratio(some: list[float], others: list[float]) -> str:
    """The median of the rounds' ratios, with the least and the most."""
    each = sorted(a / b for a, b in zip(some, others, strict=True))
    return f"{statistics.median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="dev")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8, help="of each load")
    given = parser.parse_args()
    machine = Machine(given.topology)
    own = f"https://{machine.address}/"
    kinds: dict[str, list[Run]] = {"naive stack": [], given.topology: []}
    with naive_stack(machine) as naive:
        wrk(naive, 2), wrk(own, 2)
        for number in range(given.rounds):
            kinds["naive stack"].append(measure([machine], naive, given.seconds, peer=True))
            kinds[given.topology].append(measure([machine], own, given.seconds, peer=False))
            print(
                f"{number + 1}/{given.rounds}: "
                + ", ".join(
                    f"{k} {r[-1].total:.0f} µs {r[-1].rate:.0f}/s" for k, r in kinds.items()
                ),
                file=sys.stderr,
            )
    table(kinds)
    ours, theirs = kinds[given.topology], kinds["naive stack"]
    print(
        "\n| ratio to the naive stack | median of the rounds (least to most) | aim |\n| --- | --- | --- |"
    )
    for name, value, aim in (
        ("processor time a request", lambda r: r.total, "≤ 0.9"),
        ("requests/s", lambda r: r.rate, "≥ 1.0"),
        ("p99", lambda r: r.p99, "≤ 1.0"),
        (
            "the application's processes",
            lambda r: r.spent.get("peer-app", 0) + r.spent.get("counter", 0),
            "≤ 0.65",
        ),
    ):
        print(f"| {name} | {ratio([value(r) for r in ours], [value(r) for r in theirs])} | {aim} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
