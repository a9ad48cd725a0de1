#!/usr/bin/env python3
"""
What a deploy costs on a machine that is up: its time, and the p99 of requests before and during it,
side by side in one run.

    .venv/bin/python bench/deploy.py [--topology dev] [--rate 300] [--before 20] [--rounds 3]

Prints the table of bench/README.md. Deploys two copies of this checkout's artifact in turn, from a store
of their own, then rolls back; the machine ends on the release it had.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cost import ROOT, Machine, load, quantile

sys.path.insert(0, str(ROOT / "tests"))

from artifacts import variant


async def deploy_under_load(
    machine: Machine, settings: dict[str, str], rate: int, before: float
) -> tuple[float, str, list[float], list[float]]:
    """(seconds of the deploy, what it said, seconds of each request before, and during)."""
    over = asyncio.Event()
    requests = asyncio.create_task(load(machine, rate, before + 300, enough=over.is_set))
    await asyncio.sleep(before)
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        "make",
        "deploy",
        cwd=ROOT,
        env=settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    ended = time.monotonic()
    over.set()
    sent = await requests
    if process.returncode:
        raise RuntimeError(said.decode())
    return (
        ended - began,
        said.decode(),
        [took for when, took in sent if when < began],
        [took for when, took in sent if began <= when < ended],
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="dev")
    parser.add_argument("--rate", type=int, default=300, help="requests per second")
    parser.add_argument("--before", type=float, default=20, help="seconds of load before it")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    machine = Machine(given.topology)
    with tempfile.TemporaryDirectory(prefix="bench-store-") as store:
        settings = {**os.environ, "TOPOLOGY": given.topology, "ARTIFACT_STORE": store}

        def make(*words: str, **more: str) -> str:
            done = subprocess.run(
                ["make", *words],
                cwd=ROOT,
                env={**settings, **more},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(done.stdout + done.stderr)
            return done.stdout

        own = make("publish").strip().splitlines()[-1]
        source = Path(store) / f"counter-{own}.tar.gz"
        # The deploys cannot be told from an earlier run's but by their time.
        versions = [f"0.0.0-bench{int(time.time())}{letter}" for letter in "ab"]
        for version in versions:
            variant(source, version, Path(store))
        print("| deploy | seconds | p99 before, ms | p99 during, ms | ratio |")
        print("| --- | --- | --- | --- | --- |")
        ratios, said = [], ""
        try:
            for turn in range(given.rounds):
                version = versions[turn % 2]
                took, said, quiet, rolled = asyncio.run(
                    deploy_under_load(
                        machine, {**settings, "VERSION": version}, given.rate, given.before
                    )
                )
                ratios.append(quantile(rolled, 0.99) / quantile(quiet, 0.99))
                print(
                    f"| {turn + 1} | {took:.1f} | {quantile(quiet, 0.99):.2f}"
                    f" | {quantile(rolled, 0.99):.2f} | {ratios[-1]:.2f} |",
                    flush=True,
                )
            print(f"| **median** | | | | **{statistics.median(ratios):.2f}** |")
            for line in re.findall(r"(?m)^.*s in all.*$", said):
                print(f"\nOf the last: {line.strip()}")
            began = time.monotonic()
            make("rollback")
            print(f"\nRollback: {time.monotonic() - began:.1f} s.")
        finally:
            make("deploy", VERSION=own, PILLAR='{"counter": {"bake_seconds": 0}}')
            for version in versions:
                cached = ROOT / ".cache" / "releases" / f"counter-{version}.tar.gz"
                cached.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
