"""
Faults of several stores at random, from a seed that is printed, with clients on every side who write down what
they were answered; afterwards the history is checked: no number twice, none that was acknowledged lost.

    python tests/machine/partitions.py TOPOLOGY [--single 20] [--double 5] [--seed N]

The machines must be up and have roles `app` and `store` both, so that a client stays with each store.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOG = "/var/tmp/partitions.log"
UNIT = "partitions-client"
# Asks the application beside it, one request after the other, and writes down when and what.
CLIENT = f"""
import http.client, re, time
log = open({LOG!r}, "a", buffering=1)
link = None
while True:
    began, status, number = time.time(), 0, 0
    try:
        link = link or http.client.HTTPConnection("127.0.0.1", 8001, timeout=5)
        link.request("GET", "/")
        answer = link.getresponse()
        text = answer.read().decode()
        status = answer.status
        found = re.fullmatch(r"Hello World! I have been seen (\\d+) times\\.\\n", text)
        number = int(found[1]) if found else 0
    except Exception:
        link = None
    log.write(f"{{began}} {{time.time()}} {{status}} {{number}}\\n")
    time.sleep(0.01)
"""
SERVICE = f"""[Service]
ExecStart=/usr/bin/python3 /var/tmp/{UNIT}.py
Restart=always
[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class Answer:
    """Times are seconds since 1970; ``number`` 0: none was given."""

    client: str
    began: float
    ended: float
    status: int
    number: int


def parse(client: str, text: str) -> list[Answer]:
    """The client's file; a line that a power cut left half is none."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            began, ended, status, number = line.split()
            found.append(Answer(client, float(began), float(ended), int(status), int(number)))
    return found


@dataclass
class Verdict:
    """What a history shows."""

    given: int
    refused: int
    twice: list[int]
    lost: list[int]
    # Longest time without any number given to anybody.
    gap: float
    # All answers with the first and with the last number that was given twice: who had it from whom, and when.
    evidence: list[Answer]

    @property
    def exact(self) -> bool:
        return not self.twice and not self.lost

    def __str__(self) -> str:
        said = (
            f"{self.given} numbers given, {self.refused} requests refused, {len(self.twice)} numbers twice,"
            f" {len(self.lost)} acknowledged ones lost, longest gap {self.gap:.1f} s"
        )
        times = (
            f"\n    {one.number} to {one.client} at {datetime.datetime.fromtimestamp(one.ended, datetime.UTC):%T.%f}"
            for one in self.evidence
        )
        return said + "".join(times)


def judge(history: list[Answer], final: int) -> Verdict:
    """``final``: the count when all is mended. A number above it was acknowledged and is no more."""
    given = [one for one in history if one.number]
    counts = collections.Counter(one.number for one in given)
    ends = sorted(one.ended for one in given)
    gaps = [later - before for before, later in itertools.pairwise(ends)]
    twice = sorted(number for number, times in counts.items() if times > 1)
    return Verdict(
        given=len(given),
        refused=len(history) - len(given),
        twice=twice,
        lost=sorted(number for number in counts if number > final),
        gap=max(gaps, default=0.0),
        evidence=sorted(
            (one for one in given if one.number in (*twice[:1], *twice[1:][-1:])),
            key=lambda one: (one.number, one.ended),
        ),
    )


@dataclass
class Stores:
    """The machines of a topology that have both a store and an application."""

    topology: str
    names: list[str] = field(default_factory=list)
    addresses: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import yaml

        path = ROOT / "pillar" / "topologies" / f"{self.topology}.yaml"
        for name, machine in yaml.safe_load(path.read_text(encoding="utf-8"))["machines"].items():
            if {"app", "store"} <= set(machine["roles"]):
                self.names.append(name)
                self.addresses[name] = machine["address"]

    def on(self, host: str, command: str, check: bool = True, data: str = "") -> str:
        words = [
            "ssh",
            "-F",
            str(ROOT / ".lab" / self.topology / "ssh_config"),
            "-o",
            "ConnectTimeout=10",
        ]
        done = subprocess.run(
            [*words, host, "sudo -n sh"],
            input=command + "\n" + data,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{host}: {command}: {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def lxc(self, tool: str, host: str, *words: str) -> None:
        name = f"counter_{self.topology}_{host}"
        line = [str(ROOT / "lab" / "enter"), tool, "--name", name, *words]
        subprocess.run(line, check=True, capture_output=True, timeout=120)

    def show(self, host: str | None = None) -> dict[str, Any]:
        for name in [host] if host else self.names:
            said = self.on(name, "store-set show --json || true", check=False)
            with contextlib.suppress(ValueError):
                return dict(json.loads(said))
        return {"master": None, "why": ["no machine answers"], "stores": {}}

    def wait(self, what: str, condition: Callable[[], Any], seconds: float = 300) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds} s: {self.show()}")
            time.sleep(0.3)
        return value

    def well(self) -> dict[str, Any] | None:
        """What is seen, when nothing is wrong."""
        seen = self.show()
        return None if seen["why"] else seen

    def settle(self) -> dict[str, Any]:
        return dict(self.wait("the set is whole again", self.well))

    def count(self) -> int:
        master = self.settle()["master"]
        return int(self.on(master, "redis-admin GET counter:seen").strip() or 0)

    # --- clients ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def clients(self) -> Iterator[list[Answer]]:
        """One on each machine while the block runs; its history afterwards."""
        history: list[Answer] = []
        script = (
            f"rm -f {LOG}; cat >/var/tmp/{UNIT}.py <<'END'\n{CLIENT}\nEND\n"
            f"cat >/etc/systemd/system/{UNIT}.service <<'END'\n{SERVICE}\nEND\n"
            f"systemctl daemon-reload; systemctl enable -q --now {UNIT}"
        )
        for name in self.names:
            self.on(name, script)
        try:
            yield history
        finally:
            for name in self.names:
                self.on(
                    name,
                    f"systemctl disable -q --now {UNIT}; rm /etc/systemd/system/{UNIT}.service",
                )
                history += parse(name, self.on(name, f"cat {LOG}"))

    def refusals(self, history: list[Answer]) -> list[str]:
        """The first of those that got no number, and what the application there says of why."""
        said = []
        for one in [one for one in history if not one.number][:5]:
            since, until = int(one.began), int(one.ended) + 2
            asked = f"journalctl -u 'counter@*' --since @{since} --until @{until} -o cat"
            why = self.on(one.client, f"{asked} | grep '\"status\":5' || true", check=False)
            said += [str(one), *why.splitlines()[:3]]
        return said

    # --- faults -------------------------------------------------------------------------------------

    def cut(self, host: str, way: str = "both") -> None:
        """Nothing passes between ``host`` and the other stores; ``in``: nothing to it, ``out``: nothing from it."""
        peers = ", ".join(self.addresses[name] for name in self.names if name != host)
        rules = {
            "in": f"add rule ip partition in ip saddr {{ {peers} }} drop;",
            "out": f"add rule ip partition out ip daddr {{ {peers} }} drop;",
        }
        chosen = rules.values() if way == "both" else [rules[way]]
        self.on(
            host,
            "nft 'table ip partition { chain in { type filter hook input priority -300; };"
            f" chain out {{ type filter hook output priority -300; }}; }}; {' '.join(chosen)}'",
        )

    def join(self, host: str) -> None:
        self.on(host, "nft delete table ip partition")

    def signal(self, host: str, number: int, unit: str = "redis-server") -> None:
        self.on(host, f"kill -{number} $(systemctl show -P MainPID {unit})")


@dataclass(frozen=True)
class Fault:
    """What is done to a machine, and how that ends after some seconds; None: by itself."""

    name: str
    begin: Callable[[Stores, str], None]
    end: Callable[[Stores, str], None] | None = None


def _fill(stores: Stores, host: str) -> None:
    # As on a full disk: the next write of the append-only file fails.
    stores.on(
        host,
        "prlimit --pid $(systemctl show -P MainPID redis-server)"
        " --fsize=$(stat -c %s /var/lib/redis/appendonlydir/*.incr.aof | sort -n | tail -1)",
    )


FAULTS = (
    Fault("cut both ways", lambda s, h: s.cut(h), Stores.join),
    Fault("cut: nothing comes in", lambda s, h: s.cut(h, "in"), Stores.join),
    Fault("cut: nothing goes out", lambda s, h: s.cut(h, "out"), Stores.join),
    Fault("Redis frozen", lambda s, h: s.signal(h, 19), lambda s, h: s.signal(h, 18)),
    Fault(
        "Sentinel frozen",
        lambda s, h: s.signal(h, 19, "redis-sentinel"),
        lambda s, h: s.signal(h, 18, "redis-sentinel"),
    ),
    Fault("Redis killed", lambda s, h: s.signal(h, 9)),
    Fault("Sentinel killed", lambda s, h: s.signal(h, 9, "redis-sentinel")),
    Fault(
        "Redis stopped",
        lambda s, h: s.on(h, "systemctl stop redis-server") and None,
        lambda s, h: s.on(h, "systemctl start --no-block redis-server") and None,
    ),
    Fault("rebooted", lambda s, h: s.on(h, "systemctl reboot", check=False) and None),
    Fault(
        "powered off",
        lambda s, h: s.lxc("lxc-stop", h, "--kill"),
        lambda s, h: s.lxc("lxc-start", h),
    ),
    Fault("no room on the disk", _fill),
)


def run(
    stores: Stores, single: int, double: int, seed: int, say: Callable[[str], None] = print
) -> Verdict:
    """So many single faults and so many double ones within 30 s, each mended before the next."""
    chance = random.Random(seed)
    say(f"seed {seed}: {single} single faults, {double} double ones")
    rounds = [1] * single + [2] * double
    chance.shuffle(rounds)
    stores.settle()
    with stores.clients() as history:
        for number, faults in enumerate(rounds, 1):
            seen, began = stores.settle(), time.monotonic()
            begun: list[tuple[Fault, str]] = []
            said = []
            victims = chance.sample(stores.names, faults)
            if chance.random() < 0.6:
                victims[0] = seen["master"]
                if faults == 2:
                    victims[1] = chance.choice([one for one in stores.names if one != victims[0]])
            for host in victims:
                fault = chance.choice(FAULTS)
                said.append(f"{host}{'*' if host == seen['master'] else ''} {fault.name}")
                fault.begin(stores, host)
                begun.append((fault, host))
                time.sleep(chance.uniform(0.0, 5.0))
            time.sleep(chance.uniform(1.0, 6.0))
            for fault, host in begun:
                if fault.end:
                    fault.end(stores, host)
            seen = stores.settle()
            say(
                f"  {number}/{len(rounds)} {' and '.join(said)}: whole again after"
                f" {time.monotonic() - began:.0f} s, master {seen['master']}"
            )
        final = stores.count()
    # What was counted between that look and the last request is no loss.
    verdict = judge(history, max(final, stores.count()))
    say(f"seed {seed}: {verdict}")
    return verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topology")
    parser.add_argument("--single", type=int, default=20)
    parser.add_argument("--double", type=int, default=5)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    options = parser.parse_args()
    stores = Stores(options.topology)
    verdict = run(
        stores, options.single, options.double, options.seed, lambda line: print(line, flush=True)
    )
    return 0 if verdict.exact else 1


if __name__ == "__main__":
    sys.exit(main())
