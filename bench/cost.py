#!/usr/bin/env python3
"""
What watching costs on a machine that is up: memory and CPU time of each daemon when idle, and
the p99 of requests with and without them, side by side.

    .venv/bin/python bench/cost.py [--topology dev] [--idle 60] [--load 10] [--rounds 12]

Prints the tables of bench/README.md. Rates are wrk2's idea: requests are sent at their time, whether
or not the one before was answered, and a late answer is as late as it is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import shlex
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from weights import Weights

ROOT = Path(__file__).resolve().parent.parent
# All that exists to watch; the rest is the service itself.
WATCHING = ("collectd", "prometheus", "prometheus-alertmanager", "journal-shipper", "rsyslog")
SERVING = (
    "haproxy",
    "counter@1",
    "counter@2",
    "redis-server",
    "systemd-journald",
    "fail2ban",
    "firewalld",
)
# Asks a machine for CPU time (ns) and proportional memory (kB) of each unit.
PROBE = """
import json, subprocess, sys, time
found = {}
for unit in sys.argv[1:]:
    show = dict(line.split("=", 1) for line in subprocess.run(
        ["systemctl", "show", unit, "-p", "ControlGroup,CPUUsageNSec,ActiveState"],
        capture_output=True, text=True).stdout.splitlines())
    if show["ActiveState"] != "active":
        continue
    pids = open("/sys/fs/cgroup" + show["ControlGroup"] + "/cgroup.procs").read().split()
    memory = 0
    for pid in pids:
        for line in open(f"/proc/{pid}/smaps_rollup"):
            if line.startswith("Pss:"):
                memory += int(line.split()[1])
    found[unit] = [int(show["CPUUsageNSec"]), memory]
print(json.dumps([time.monotonic(), found]))
"""


class Machine:
    def __init__(self, topology: str, host: str = "") -> None:
        self.state = ROOT / ".lab" / topology
        self.host = host or topology
        said = subprocess.run(
            ["make", "-s", "url"],
            cwd=ROOT,
            env={**os.environ, "TOPOLOGY": topology},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        self.address = said.strip().removeprefix("https://").rstrip("/")

    def run(self, command: str, data: str = "") -> str:
        words = ["ssh", "-F", str(self.state / "ssh_config"), self.host]
        done = subprocess.run(
            [*words, f"sudo -n sh -c {shlex.quote(command)}"],
            input=data,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def probe(self) -> tuple[float, dict[str, list[int]]]:
        said = self.run(f"python3 - {' '.join(WATCHING + SERVING)}", PROBE)
        when, found = json.loads(said)
        return when, found

    def weights(self) -> dict[str, int]:
        """{unit: CPUWeight=} of the units that have one."""
        said = self.run("systemctl show -p Id,CPUWeight '*.service'")
        return {unit: int(weight) for weight, unit in re.findall(r"CPUWeight=(\d+)\nId=(.+)", said)}


def all_machines(topology: str) -> list[Machine]:
    """Those of a topology that is up."""
    config = (ROOT / ".lab" / topology / "ssh_config").read_text(encoding="utf-8")
    return [Machine(topology, host) for host in re.findall(r"(?m)^Host (\w\S*)", config)]


def usage(machine: Machine, seconds: float) -> dict[str, tuple[float, float]]:
    """{unit: (percent of one CPU, MiB)} over that time."""
    began, before = machine.probe()
    time.sleep(seconds)
    ended, after = machine.probe()
    return {
        unit: (
            100 * (after[unit][0] - before[unit][0]) / 1e9 / (ended - began),
            after[unit][1] / 1024,
        )
        for unit in after
        if unit in before
    }


async def load(
    machine: Machine,
    rate: int,
    seconds: float,
    connections: int = 32,
    enough: Callable[[], bool] = lambda: False,
    port: int = 443,
) -> list[tuple[float, float]]:
    """
    When each request was due (time.monotonic()) and the seconds that it took from then. Ends before
    its ``seconds`` when there is ``enough``. Raises RuntimeError for any answer but 200.
    """
    context = ssl.create_default_context(cafile=str(machine.state / "ca.pem"))
    took: list[tuple[float, float]] = []
    due = asyncio.Queue[float]()
    request = f"GET / HTTP/1.1\r\nHost: {machine.address}\r\n\r\n".encode()

    async def client() -> None:
        reader, writer = await asyncio.open_connection(machine.address, port, ssl=context)
        while (when := await due.get()) >= 0:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.split(b"\r\n")[0].decode())
            size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(size)
            took.append((when, time.monotonic() - when))
        writer.close()

    clients = [asyncio.create_task(client()) for _ in range(connections)]
    await asyncio.sleep(1)
    began = time.monotonic()
    for number in range(int(rate * seconds)):
        if enough():
            break
        when = began + number / rate
        wait = when - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        due.put_nowait(when)
    for _ in clients:
        due.put_nowait(-1)
    await asyncio.gather(*clients)
    return took


# Until all that watches is up, and has caught up with what was logged while it was not.
READY = """
import json, sys, time, urllib.request
why = None
for _ in range(120):
    time.sleep(0.5)
    try:
        for port in (9090, 9093):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5).close()
        metrics = json.load(open("/run/journal-shipper/metrics.json"))
        if metrics["connected"] and metrics["lag_seconds"] == 0:
            sys.exit()
        why = metrics
    except OSError as error:
        why = error
sys.exit(f"what watches is not ready after 60 s: {why}")
"""
QUANTILES = (0.5, 0.95, 0.99)


# What is compared: the last two are the same, so that their ratio says how much is noise.
KINDS = {"with all that watches": "start", "without": "stop", "without, once more": "stop"}


def side_by_side(
    machine: Machine, weights: Weights, rounds: int, rate: int, seconds: float
) -> tuple[dict[str, list[list[float]]], dict[str, list[float]]]:
    """
    Each kind once a round, every time another one first. Returns {kind: seconds of each request, round
    by round} and {unit: µs of CPU time per request, round by round}, with all that watches.
    """
    sent: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    spent: dict[str, list[float]] = {}
    units = " ".join(WATCHING)
    asked = machine.weights()
    kinds = list(KINDS)
    try:
        for number in range(rounds):
            kinds = kinds[1:] + kinds[:1]
            for kind in kinds:
                verb = KINDS[kind]
                machine.run(f"systemctl {verb} {units}")
                if verb == "start":
                    machine.run("python3 -", READY)
                weights.set(asked)
                time.sleep(2)
                _, before = machine.probe()
                answers = [took for _, took in asyncio.run(load(machine, rate, seconds))]
                _, after = machine.probe()
                sent[kind].append(answers)
                if verb == "start":
                    for unit in after:
                        used = (after[unit][0] - before[unit][0]) / 1000 / len(answers)
                        spent.setdefault(unit, []).append(used)
                said = ", ".join(f"{quantile(answers, q):.2f}" for q in QUANTILES)
                print(f"{number + 1}/{rounds} {kind}: p50, p95, p99: {said} ms", file=sys.stderr)
    finally:
        machine.run(f"systemctl start {units}")
    return sent, spent


def middle(rounds: list[list[float]], part: float) -> float:
    """The median of that quantile over rounds, in ms."""
    return statistics.median(quantile(each, part) for each in rounds)


def between(some: list[list[float]], others: list[list[float]], part: float) -> str:
    """
    The ratio of the medians, and where 90 of 100 such measurements would lie: by drawing as many
    rounds anew, 2,000 times (https://en.wikipedia.org/wiki/Bootstrapping_(statistics)).
    """
    one = [quantile(each, part) for each in some]
    other = [quantile(each, part) for each in others]

    def ratio(rounds: Sequence[int]) -> float:
        return statistics.median(one[i] for i in rounds) / statistics.median(
            other[i] for i in rounds
        )

    draw, whole = random.Random(1), range(len(one))
    drawn = sorted(ratio(draw.choices(whole, k=len(one))) for _ in range(2000))
    return f"{ratio(whole):.2f} ({drawn[100]:.2f} to {drawn[1900]:.2f})"


def quantile(took: list[float], part: float) -> float:
    return sorted(took)[min(len(took) - 1, int(part * len(took)))] * 1000


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="dev")
    parser.add_argument("--idle", type=float, default=60, help="seconds of idling to measure")
    parser.add_argument("--load", type=float, default=10, help="seconds of each load")
    parser.add_argument("--rate", type=int, default=500, help="requests per second")
    parser.add_argument("--rounds", type=int, default=12, help="of each kind")
    given = parser.parse_args()
    machine = Machine(given.topology)

    print("| daemon | idle, % of one CPU | MiB (PSS) |\n| --- | --- | --- |")
    idle = usage(machine, given.idle)
    for unit in WATCHING:
        if unit in idle:
            print(f"| {unit} | {idle[unit][0]:.2f} | {idle[unit][1]:.1f} |")
    known = [idle[unit] for unit in WATCHING if unit in idle]
    print(
        f"| **all that watches** | **{sum(c for c, _ in known):.2f}** | **{sum(m for _, m in known):.1f}** |"
    )

    with Weights(given.topology) as weights:
        if weights.effective:
            print("the units' CPUWeight= is set from the host", file=sys.stderr)
        sent, spent = side_by_side(machine, weights, given.rounds, given.rate, given.load)

    print(
        f"\n| {given.rate} requests/s, {given.rounds} times {given.load:.0f} s, in turn |", end=""
    )
    print(" p50, ms | p95, ms | p99, ms |\n| --- | --- | --- | --- |")
    for kind, each in sent.items():
        print(f"| {kind} | " + " | ".join(f"{middle(each, q):.2f}" for q in QUANTILES) + " |")
    on, off, again = sent.values()
    for name, some in (("with / without", on), ("noise: once more / without", again)):
        print(f"| {name} | " + " | ".join(between(some, off, q) for q in QUANTILES) + " |")
    print("\n| daemon | µs of CPU time per request |\n| --- | --- |")
    for unit, each in sorted(spent.items(), key=lambda one: -statistics.median(one[1])):
        print(f"| {unit} | {statistics.median(each):.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
