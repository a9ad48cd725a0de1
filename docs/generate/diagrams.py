"""The diagrams, from facts.py: each function gives one SVG as text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from . import facts
from .svg import Canvas, width_of

WIDTH = 760
EVERY = "every machine"
# How a formula's port is spoken to, by whom where that makes a difference; what is not here is named by its formula alone.
SPOKEN: dict[str | tuple[str, str], str] = {
    "base": "ssh, keys only",
    "haproxy": "HTTPS; 80 redirects",
    ("haproxy", facts.BALANCER): "HTTPS; 8410: its health check",
    ("haproxy", "edge"): "what clients have had, in TLS",
    "sentinel": "TLS, both certificates",
    "stunnel": "TLS, both certificates",
    "redis": "TLS, both certificates",
    "rsyslog": "RELP in TLS, both certificates",
}


class Pair(NamedTuple):
    """Who may speak to what, whatever the ports; see `Connection`."""

    source: str
    target: str
    formula: str
    protocol: str

    def with_end(self, end: str, name: str) -> Pair:
        """The same with ``name`` as its ``end``, `source` or `target`."""
        return self._replace(target=name) if end == "target" else self._replace(source=name)

    def without(self, end: str) -> Pair:
        return self.with_end(end, "")


class Connection(NamedTuple):
    """Who may open a connection to whom. ``source`` and ``target``: a tier, `everybody`, `every
    machine` or a network."""

    source: str
    target: str
    formula: str
    protocol: str
    ports: str

    @property
    def label(self) -> str:
        """``PORTS/PROTOCOL``, or the protocol alone where it has none."""
        return self.protocol if self.ports == "0" else f"{self.ports}/{self.protocol}"


def ranges(ports: set[int]) -> str:
    """`{80, 8001, 8002}` as `80, 8001-8002`."""
    runs: list[list[int]] = []
    for port in sorted(ports):
        if runs and port == runs[-1][1] + 1:
            runs[-1][1] = port
        else:
            runs.append([port, port])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def connections(topology: facts.Topology) -> list[Connection]:
    """What the openings of all machines add up to; what holds for every machine is said once."""
    tiers = list(topology.tiers())
    opened: set[tuple[Pair, int]] = set()
    for machine in topology.machines:
        for one in machine.openings:
            holders = [one.source]
            if one.source in facts.ROLES:
                holders = [
                    tier
                    for tier, members in topology.tiers().items()
                    if any(one.source in member.roles for member in members)
                ]
            for holder in holders:
                opened.add((Pair(holder, machine.tier, one.formula, one.protocol), one.port))

    for end in ("target", "source"):
        groups: dict[tuple[Pair, int], set[str]] = defaultdict(set)
        for pair, port in opened:
            own = pair.target if end == "target" else pair.source
            if own in tiers:
                groups[pair.without(end), port].add(own)
        for (rest, port), found in groups.items():
            other = rest.source if end == "target" else rest.target
            if len(found) < 2 or other == EVERY or not found >= set(tiers) - {other}:
                continue
            opened -= {(rest.with_end(end, own), port) for own in found}
            opened.add((rest.with_end(end, EVERY), port))
    ports: dict[Pair, set[int]] = defaultdict(set)
    for pair, port in opened:
        ports[pair].add(port)
    order = [facts.ANYBODY, facts.BALANCER, *tiers, EVERY]

    def rank(one: Connection) -> tuple[int, int, str, str]:
        place = [order.index(end) if end in order else 9 for end in (one.source, one.target)]
        return (place[0], place[1], one.formula, one.ports)

    return sorted((Connection(*key, ranges(found)) for key, found in ports.items()), key=rank)


def port_matrix(topology: facts.Topology) -> str:
    """Rows: what a machine lets in; columns: who may come; a dot where it is open."""
    tiers = topology.tiers()
    networks = sorted(
        {
            one.source
            for machine in topology.machines
            for one in machine.openings
            if one.source not in (*facts.ROLES, facts.ANYBODY)
        }
    )
    columns = [facts.ANYBODY, *(one.name for one in topology.machines), *networks]
    words = (
        f"{one.source} → {one.target}: {one.label} ({one.formula})" for one in connections(topology)
    )
    picture = Canvas(WIDTH, f"Port matrix of {topology.name}", "\n".join(words))
    picture.text(20, 30, f"Port matrix: {topology.name}", "h")
    picture.text(20, 52, "a dot: may connect; a blank: refused", "s m")
    first, y = 330.0, 84.0
    step = (WIDTH - first - 10) / len(columns)
    longest = max(width_of(name, "s") for name in columns)
    slanted = longest > step - 6
    head = y + (22 if not slanted else 14 + 16 * (len(columns) - 1))
    for index, name in enumerate(columns):
        x = first + step * (index + 0.5)
        # Names that are too wide for their column stand one below the other, each with its line.
        at = y + (16 * index if slanted else 0)
        picture.text(min(x, WIDTH - 12 - width_of(name, "s") / 2), at, name, "s b", "middle")
        if slanted:
            picture.line(x, at + 5, x, head + 8, "rule")
    y = head + 14
    holders = {role: [one.name for one in topology.machines if role in one.roles] for role in facts.ROLES}  # fmt: skip
    for tier, members in tiers.items():
        for machine in members:
            picture.line(16, y - 6, WIDTH - 16, y - 6, "rule")
            picture.text(20, y + 14, machine.name, f"b {tier}")
            rows: dict[tuple[str, str, frozenset[str]], set[int]] = defaultdict(set)
            for one in machine.openings:
                who = holders.get(one.source, [one.source])
                rows[(one.formula, one.protocol, frozenset(who) - {machine.name})].add(one.port)
            joined: dict[tuple[str, str, str], set[str]] = defaultdict(set)
            for (formula, protocol, sources), opened in rows.items():
                joined[(formula, protocol, ranges(opened))] |= sources
            for (formula, protocol, shown), found in sorted(joined.items()):
                picture.text(110, y + 14, formula, "s")
                picture.text(200, y + 14, f"{shown}/{protocol}", "c")
                for index, name in enumerate(columns):
                    everybody = facts.ANYBODY in found
                    if name in found or (everybody and name != machine.name):
                        public = name == facts.ANYBODY
                        picture.dot(
                            first + step * (index + 0.5), y + 10, "dot public" if public else "dot"
                        )
                y += 22
            y += 8
    return finished(picture)


def request_path(topology: facts.Topology) -> str:
    """One counted request, from the client to the disk and back."""
    haproxy, counter, redis = (topology.settings(name) for name in facts.QUOTED)
    private = {(one.source, one.target): one.ports for one in connections(topology)}
    to_app = private.get(("edge", "app"), str(counter["port"]))
    to_store = private.get(("app", "store"), str(redis["port"]))
    picture = Canvas(
        WIDTH,
        "The path of a request",
        "A client asks HAProxy over TLS; HAProxy gives the request an id and asks one instance of"
        " the application over a kept connection; this increments the count in Redis, which answers"
        " when the count is on the disk.",
    )
    picture.text(20, 30, "The path of a request", "h")
    lanes = {"client": 85, "haproxy": 290, "counter": 490, "redis": 675}
    # Between machines stunnel takes TLS off, beside the application.
    in_front = [(f"stunnel, :{to_app}", "s m")] if to_app != str(counter["port"]) else []
    heads = {
        "client": [("client", "b"), ("h2 or http/1.1", "s m")],
        "haproxy": [("HAProxy", "b edge"), (f":{haproxy['frontend']['https_port']}, TLS", "s m")],
        "counter": [("counter@N", "b app"), *in_front, (f"waitress, :{counter['port']}", "s m")],
        "redis": [("Redis", "b store"), (f":{to_store}", "s m")],
    }
    for lane, x in lanes.items():
        picture.card(x - 70, 44, 140, 60, heads[lane], lane)
    limit, backend, times = haproxy["limit"], haproxy["backend"], haproxy["timeouts"]
    steps: list[tuple[str, str, str, str]] = [
        ("client", "haproxy", "GET /", f"{haproxy['tls']['min_version']} or newer"),
        ("haproxy", "client", "429, Retry-After", f"over {limit['requests']} in {limit['period']}"),
        ("haproxy", "client", "403", "a known exploit's path"),
        ("haproxy", "haproxy", "drops what clients say of themselves; new X-Request-ID", ""),
        ("haproxy", "counter", "GET /, X-Request-ID",
         ("kept connection" if backend["keep_alive"] else "a new connection")
         + (" in TLS" if to_app != str(counter["port"]) else "")),
        ("counter", "redis", "INCR", f"appendfsync {redis['appendfsync']}"),
        ("redis", "counter", "N", "it is on the disk"),
        ("counter", "haproxy", "200, seen N times", f"within {times['server']}, or 504"),
        ("haproxy", "client", "200, X-Request-ID", "one JSON log line"),
        ("haproxy", "counter", f"GET {counter['health']['ready']}",
         f"every {backend['check']['interval']}, counts nothing"),
    ]  # fmt: skip
    if not limit["enabled"]:
        steps.pop(1)
    if not haproxy["scans"]:
        steps = [step for step in steps if step[2] != "403"]
    y = 136.0
    for source, target, above, below in steps:
        x1, x2 = lanes[source], lanes[target]
        if source == target:
            picture.card(x1 - 30, y - 16, 400, 26, [(above, "s")], above)
            y += 42
            continue
        picture.arrow((x1, y), (x2, y))
        middle = (x1 + x2) / 2
        picture.text(middle, y - 6, above, "s b", "middle")
        picture.text(middle, y + 15, below, "s m", "middle")
        y += 50
    for x in lanes.values():
        picture.line(x, 104, x, y - 18, "life")
    for line in (
        f"A connection that fails before anything was sent is tried {backend['retries']} times more, at"
        " another instance;",
        "what may have been counted is never repeated. Redis unreachable: 503 in under a second.",
    ):
        picture.text(20, y + 4, line, "s m")
        y += 18
    return finished(picture)


def finished(picture: Canvas, notes: Iterable[str] = (), y: float = 0) -> str:
    """The picture, with ``notes`` below each other from ``y`` on; RuntimeError where two things lie on each other."""
    for note in notes:
        y = picture.paragraph(20, y, WIDTH - 40, note)
    found = picture.collisions()
    if found:
        raise RuntimeError(f"{picture.title}: " + "; ".join(found))
    return str(picture)
