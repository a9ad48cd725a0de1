#!/usr/bin/env python3
"""
What a request costs on one topology beside another, both up on the same CPUs.

    .venv/bin/python bench/topologies.py [prod] [ha] [--rounds 5] [--seconds 8]

Prints processor time a request of all services of all machines, by unit, and the ratio of the second to the first;
what runs all the time (checks, adverts, scrapes) is in it. Needs `wrk` (Debian's package).
"""

from __future__ import annotations

import argparse
import sys

from cost import ROOT, all_machines
from request import Run, measure, ratio, table, wrk

sys.path.insert(0, str(ROOT))

from control import endpoint, topology


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topologies", nargs="*", default=["prod", "ha"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8, help="of each load")
    given = parser.parse_args()
    first, second = given.topologies
    kinds: dict[str, list[Run]] = {first: [], second: []}
    machines = {name: all_machines(name) for name in kinds}
    urls = {name: endpoint.url(topology.load(name)) for name in kinds}
    for url in urls.values():
        wrk(url, 2)
    for number in range(given.rounds):
        # Who comes second has the busier computer: each in turn.
        for name in [first, second] if number % 2 else [second, first]:
            kinds[name].append(measure(machines[name], urls[name], given.seconds, False))
        said = ", ".join(f"{name} {runs[-1].total:.0f} µs" for name, runs in kinds.items())
        print(f"{number + 1}/{given.rounds}: {said}", file=sys.stderr)
    table(kinds)
    some, others = ([run.total for run in kinds[name]] for name in (second, first))
    print(f"\nprocessor time per request, {second} / {first}: {ratio(some, others)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
