#!/usr/bin/env python3
"""
What a request costs, beside the stack that tutorials end with (bench/peer), on the same machine.

    .venv/bin/python bench/request.py [--topology dev] [--rounds 5] [--seconds 8] [--many prod] [--parts]

Prints the tables of bench/README.md: as fast as it goes, and at a rate that all of them bear; with
``--many``, those of a topology of several machines that is up on the same CPUs; with ``--parts``,
what each part costs, by switching it off. The naive stack is started on the machine for the time of the
run, with the libraries of the installed release, and removed after. Needs `wrk` (Debian's package).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cost import Machine, all_machines, between, load, middle

PEER = Path(__file__).parent / "peer"
PORT = 18443
# The three processes of the naive stack, each a unit of its own.
UNITS = {
    "app": "env PYTHONPATH=$(ls -d /opt/counter/releases/*/lib* | tr '\\n' :) "
    "python3 /run/peer/app.py 18001 18379",
    "haproxy": "haproxy -db -f /run/peer/haproxy.cfg",
    "redis": "redis-server /run/peer/redis.conf",
}
# Prints {unit: CPU time so far, µs}; instances of a template are added up.
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
        # Of a unit that ends meanwhile there is no figure.
        for unit, microseconds in re.findall(r"(?m)^(\S+) (\d+)$", machine.run(PROBE)):
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
        machine.run(f"firewall-cmd -q --add-port={PORT}/tcp")
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
        units = " ".join(f"peer-{unit}" for unit in UNITS)
        machine.run(
            f"systemctl stop {units}; systemctl reset-failed {units}; rm -r /run/peer;"
            f" firewall-cmd -q --remove-port={PORT}/tcp"
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


def edited(edit: str) -> tuple[str, str]:
    """Commands that change HAProxy's configuration by sed, and take that back."""
    config, kept = "/etc/haproxy/haproxy.cfg", "/run/bench.cfg"
    return (
        f"cp -p {config} {kept} && sed -i -E '{edit}' {config} && ! cmp -s {config} {kept}"
        " && systemctl reload haproxy",
        f"cp -p {kept} {config}; rm {kept}; systemctl reload haproxy",
    )


INSTANCES = "systemctl restart counter@1 && systemctl restart counter@2"
# What is switched otherwise for one load, and how.
PARTS = {
    "no connection kept": edited("s/http-reuse always/http-reuse never/"),
    "no log line of HAProxy's": edited("s/set-log-level info/set-log-level silent/"),
    "a log line of the application's for each": (
        f"sed -i '$a COUNTER_LOG_REQUESTS=all' /opt/counter/instances/*/env && {INSTANCES}",
        f"sed -i '/^COUNTER_LOG_REQUESTS=all$/d' /opt/counter/instances/*/env && {INSTANCES}",
    ),
    "no central log": (
        "systemctl stop journal-shipper rsyslog",
        "systemctl start rsyslog journal-shipper",
    ),
    "no metrics and alerts": (
        "systemctl stop collectd prometheus prometheus-alertmanager",
        "systemctl start prometheus prometheus-alertmanager collectd",
    ),
    "no pattern of scans": edited("/txn.scan\\) int/d"),
    "bodies not waited for": edited("/option http-buffer-request/d"),
    "a health check every 5 s": edited("s/inter 250ms/inter 5s/"),
    "appendfsync everysec": (
        "redis-admin config set appendfsync everysec",
        "redis-admin config set appendfsync always",
    ),
}


def parts(machine: Machine, url: str, rounds: int, seconds: float) -> None:
    """Print what each part costs: µs a request without it, beside those with all, in turn."""
    print("\n| switched | µs a request | with all | ratio |\n| --- | --- | --- | --- |")
    for name, (switch, back) in PARTS.items():
        with_all, without = [], []
        for _ in range(rounds):
            with_all.append(measure([machine], url, seconds, peer=False).total)
            try:
                machine.run(switch)
                time.sleep(1)
                wrk(url, 1)
                without.append(measure([machine], url, seconds, peer=False).total)
            finally:
                machine.run(back)
                time.sleep(1)
        print(
            f"| {name} | {statistics.median(without):.0f} | {statistics.median(with_all):.0f}"
            f" | {ratio(without, with_all)} |",
            flush=True,
        )


def rates(machine: Machine, rate: int, rounds: int, seconds: float) -> None:
    """Print p50 and p99 at a rate that both bear, in turn, and their ratios."""
    took: dict[str, list[list[float]]] = {"naive stack": [], machine.host: []}
    for _ in range(rounds):
        for kind, port in (("naive stack", PORT), (machine.host, 443)):
            answers = asyncio.run(load(machine, rate, seconds, port=port))
            took[kind].append([late for _, late in answers])
    print(f"\n| {rate} requests/s | p50, ms | p99, ms |\n| --- | --- | --- |")
    for kind, runs in took.items():
        print(f"| {kind} | {middle(runs, 0.5):.1f} | {middle(runs, 0.99):.1f} |")
    naive, own = took.values()
    print(f"| ratio | {between(own, naive, 0.5)} | {between(own, naive, 0.99)} |")


def ratios(naive: list[Run], own: list[Run], many: list[Run] | None) -> None:
    """Print what bench/README.md aims at, and what is reached."""

    def application(run: Run) -> float:
        return run.spent.get("peer-app", 0) + run.spent.get("counter", 0)

    rows = [
        ("CPU time per request", own, naive, lambda run: run.total, "≤ 0.9"),
        ("requests/s", own, naive, lambda run: run.rate, "≥ 1.0"),
        ("p99", own, naive, lambda run: run.p99, "≤ 1.0"),
        ("the application's processes", own, naive, application, "≤ 0.65"),
    ]
    if many:
        rows.append(("CPU time, several machines / one", many, own, lambda run: run.total, "≤ 1.4"))
    print("\n| ratio to the naive stack | median of the rounds (least to most) | aim |")
    print("| --- | --- | --- |")
    for name, some, others, value, aim in rows:
        print(f"| {name} | {ratio([value(r) for r in some], [value(r) for r in others])} | {aim} |")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="dev")
    parser.add_argument("--many", help="a topology of several machines that is up as well")
    parser.add_argument("--parts", action="store_true", help="what each part costs")
    parser.add_argument("--rate", type=int, default=200, help="requests/s of the second table")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8, help="of each load")
    given = parser.parse_args()
    machine = Machine(given.topology)
    own = f"https://{machine.address}/"
    kinds: dict[str, list[Run]] = {"naive stack": [], given.topology: []}
    several: list[Machine] = []
    if given.many:
        several = all_machines(given.many)
        kinds[given.many] = []
    with naive_stack(machine) as naive:
        loads = [("naive stack", [machine], naive, True), (given.topology, [machine], own, False)]
        if several:
            loads.append((given.many, several, f"https://{several[0].address}/", False))
        for _, _, url, _ in loads:
            wrk(url, 2)
        for number in range(given.rounds):
            for kind, machines, url, peer in loads:
                kinds[kind].append(measure(machines, url, given.seconds, peer))
            said = ", ".join(f"{kind} {runs[-1].total:.0f} µs" for kind, runs in kinds.items())
            print(f"{number + 1}/{given.rounds}: {said}", file=sys.stderr)
        table(kinds)
        ratios(kinds["naive stack"], kinds[given.topology], kinds.get(given.many or ""))
        rates(machine, given.rate, given.rounds, given.seconds)
    if given.parts:
        parts(machine, own, given.rounds, given.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
