"""The diagrams, from facts.py: each function gives one SVG as text."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NamedTuple

import yaml

from . import facts
from .svg import Canvas, width_of

WIDTH = 760
EVERY = "every machine"
# How a formula's port is spoken to; what is not here is named by its formula alone.
SPOKEN = {
    "base": "ssh, keys only",
    "haproxy": "HTTPS; 80 redirects",
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
            if len(found) < 2 or other == EVERY or found < set(tiers) - {other}:
                continue
            opened -= {(rest.with_end(end, own), port) for own in found}
            opened.add((rest.with_end(end, EVERY), port))
    ports: dict[Pair, set[int]] = defaultdict(set)
    for pair, port in opened:
        ports[pair].add(port)
    order = [facts.ANYBODY, *tiers, EVERY]

    def rank(one: Connection) -> tuple[int, int, str, str]:
        place = [order.index(end) if end in order else 9 for end in (one.source, one.target)]
        return (place[0], place[1], one.formula, one.ports)

    return sorted((Connection(*key, ranges(found)) for key, found in ports.items()), key=rank)


def _services(topology: facts.Topology) -> tuple[list[str], dict[str, list[str]]]:
    """Formulas that every machine has, and those of each tier besides."""
    common = [
        name
        for name in topology.machines[0].formulas
        if all(name in one.formulas for one in topology.machines)
    ]
    if len(topology.machines) == 1:
        common = [name for name in common if name in ("base", "firewalld", "fail2ban")]
    own = {
        tier: [name for name in members[0].formulas if name not in common]
        for tier, members in topology.tiers().items()
    }
    return common, own


def target_topology(topology: facts.Topology) -> str:
    """Machines, roles, ports and trust zones of a topology."""
    tiers, wanted = topology.tiers(), connections(topology)
    common, own = _services(topology)
    monitor = tiers.get("monitor", [])
    path = [tier for tier in tiers if tier != "monitor"]
    picture = Canvas(
        WIDTH,
        f"Target topology {topology.name}",
        f"{len(topology.machines)} machines: "
        + "; ".join(f"{one.name} ({', '.join(one.roles)}) {one.address}" for one in topology.machines),
    )  # fmt: skip
    picture.text(20, 30, f"Target topology: {topology.name}", "h")
    picture.text(WIDTH - 20, 30, f"site name {topology.domain}", "c m", "end")

    # Internet
    picture.box(16, 46, WIDTH - 32, 84, "zone", "Internet", "zone")
    picture.text(28, 64, "Internet: nobody is trusted", "s m")
    picture.card(310, 72, 160, 44, [("clients", "b"), ("browsers, curl", "s m")], "clients")
    picture.card(590, 72, 140, 44, [("operators", "b"), ("ssh, keys only", "s m")], "operators")

    # Tiers, one below the other
    left, inner, gap = 60.0, 440.0, 48.0
    top = 176.0
    places: dict[str, tuple[float, float]] = {}
    for tier in path:
        members = tiers[tier]
        lines = own[tier]
        columns = min(3, len(members))
        rows = -(-len(members) // 3)
        height = 26.0 + rows * (52 + 17 * len(lines)) + 2
        places[tier] = (top, height)
        picture.box(left, top, inner, height, f"group {tier}", tier, "group")
        number = f" \u00d7 {len(members)}" if len(members) > 1 else ""
        picture.text(left + 12, top + 19, f"{tier}{number}", f"b {tier}")
        card = min(190.0, (inner - 20 - 10 * (columns - 1)) / columns)
        start = left + (inner - columns * card - 10 * (columns - 1)) / 2
        for index, member in enumerate(members):
            x = start + (index % 3) * (card + 10)
            at = top + 26 + (index // 3) * (52 + 17 * len(lines))
            shown = [(member.name, "b"), (member.address, "c m")]
            for name in lines:
                opened = ranges({one.port for one in member.openings if one.formula == name})
                shown.append((f"{name} :{opened}" if opened else name, "s"))
            picture.card(x, at, card, 44 + 17 * len(lines), shown, member.name)
        top += height + gap
    bottom = top - gap
    first_top, first_height = places[path[0]]
    split = first_top + first_height + gap / 2 - 6
    picture.box(16, first_top - 24, WIDTH - 32, split - first_top + 24, "zone", "public", "zone")
    picture.text(left, first_top - 9, "open to the Internet: what the edge serves", "s m")

    if monitor:
        y = split + 40
        lines = own["monitor"]
        height = max(bottom - y, 26 + len(monitor) * (52 + 17 * len(lines)) + 10)
        bottom = max(bottom, y + height)
        places["monitor"] = (y, height)
        picture.box(574, y, 160, height, "group monitor", "monitor", "group")
        picture.text(586, y + 19, "monitor", "b monitor")
        for index, member in enumerate(monitor):
            at = y + 26 + index * (52 + 17 * len(lines))
            shown = [(member.name, "b"), (member.address, "c m"), *((one, "s") for one in lines)]
            picture.card(582, at, 144, 44 + 17 * len(lines), shown, member.name)
    if len(tiers) > 1:
        picture.box(16, split + 6, WIDTH - 32, bottom - split + 10, "zone", "private", "zone")
        words = f"private network {topology.network}: its machines only"
        picture.text(left, split + 22, words, "s m")

    # Arrows, and the numbers that the legend explains
    drawn: dict[tuple[str, str], list[int]] = defaultdict(list)
    for count, one in enumerate(wanted, 1):
        drawn[(one.source, one.target)].append(count)
    middle = left + inner / 2
    lane, bus = left - 14.0, 516.0
    for (source, target), numbers in drawn.items():
        if source == facts.ANYBODY and target == path[0]:
            picture.arrow((390, 116), (390, first_top))
            spots = [(408.0 + 22 * index, 140.0) for index in range(len(numbers))]
        elif source == facts.ANYBODY and target == EVERY:
            picture.arrow((660, 116), (660, first_top - 24))
            spots = [(678.0 + 22 * index, 140.0) for index in range(len(numbers))]
        elif source in path and target in path and path.index(target) == path.index(source) + 1:
            y = places[source][0] + places[source][1]
            picture.arrow((middle + 140, y), (middle + 140, places[target][0]))
            spots = [(middle + 158 + 22 * index, y + gap - 14) for index in range(len(numbers))]
        elif "monitor" in (source, target) and EVERY in (source, target) and monitor:
            ends = [places[tier][0] + places[tier][1] / 2 for tier in path]
            shift = 0 if source == "monitor" else 14
            desk = places["monitor"][0] + 60 + 3 * shift
            ends = [end + shift for end in ends]
            x = bus + shift * 1.5
            picture.arrow((x, min(*ends, desk)), (x, max(*ends, desk)), tip=False)
            for end in ends:
                if source == "monitor":
                    picture.arrow((x, end), (left + inner, end))
                else:
                    picture.arrow((left + inner, end), (x, end), tip=False)
            if source == "monitor":
                picture.arrow((574, desk), (x, desk), tip=False)
            else:
                picture.arrow((x, desk), (574, desk))
            spots = [(x + 11, desk - 14 - 20 * index) for index in range(len(numbers))]
        elif "monitor" in (source, target) and {source, target} <= set(places):
            other = target if source == "monitor" else source
            y = places[other][0] + places[other][1] - 10
            ends2 = [(left + inner, y), (574.0, y)]
            if y < places["monitor"][0]:
                ends2[1:] = [(640.0, y), (640.0, places["monitor"][0])]
            picture.arrow(*(ends2 if target == "monitor" else ends2[::-1]))
            spots = [(546.0 - 20 * index, y - 14) for index in range(len(numbers))]
        elif source in places and target in places:
            y1, y2 = (places[end][0] + places[end][1] / 2 for end in (source, target))
            picture.arrow((left, y1), (lane, y1), (lane, y2), (left, y2))
            spots = [(lane, (y1 + y2) / 2 + 22 * index) for index in range(len(numbers))]
            lane -= 10
        else:
            y = places[target][0] + 16 if target in places else split + 20
            spots = [(left + inner - 16 - 22 * index, y) for index in range(len(numbers))]
        for count, (x, y) in zip(numbers, spots, strict=True):
            picture.badge(x, y, count)

    # Legend
    y = bottom + 46
    picture.text(20, y, "Who may connect to whom; everything else is denied", "b")
    y += 24
    for count, one in enumerate(wanted, 1):
        picture.badge(32, y - 4, count)
        picture.text(52, y, f"{one.source} → {one.target}", "s")
        picture.text(292, y, one.label, "c")
        spoken = SPOKEN.get(one.formula)
        picture.text(440, y, one.formula + (f": {spoken}" if spoken else ""), "s m")
        y += 22
    y += 6
    text = "on every machine: "
    for index, word in enumerate(common, 1):
        if width_of(text + word, "s") > WIDTH - 40:
            picture.text(20, y, text.rstrip(), "s m")
            y, text = y + 17, ""
        text += word + (", " if index < len(common) else "")
    picture.text(20, y, text, "s m")
    return finished(picture)


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
    picture = Canvas(
        WIDTH, f"Port matrix of {topology.name}", "Who may open a connection to which port"
    )
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


# What people want to know of a stage, beside its name.
_STAGE = {
    "lint": "make lint",
    "unit": "make test-unit",
    "test": "make test",
    "build": "make artifact",
    "machine": "real machines",
    "machines": "real machines",
    "publish": "make publish",
    "staging": "by itself",
    "production": "by hand",
    "audit": "dependencies",
    "release": "notes from CHANGELOG",
}


def pipeline() -> tuple[list[str], list[str]]:
    """Stages of .gitlab-ci.yml, and its jobs that deploy; none while there is no pipeline."""
    path = facts.ROOT / ".gitlab-ci.yml"
    if not path.exists():
        return [], []

    class Loader(yaml.SafeLoader):
        """Knows GitLab's `!reference`."""

    Loader.add_constructor("!reference", lambda loader, node: None)
    data = yaml.load(path.read_text(encoding="utf-8"), Loader)
    jobs = [name for name, job in data.items() if isinstance(job, dict) and job.get("environment")]
    return [str(one) for one in data.get("stages", [])], jobs


def deployment(topology: facts.Topology) -> str:
    """From a commit to served traffic, and back."""
    counter = topology.settings("counter")
    bake_seconds = counter.get("bake_seconds", 0)
    picture = Canvas(
        WIDTH,
        "The deployment process",
        "A commit passes the pipeline, becomes one immutable artifact in the store, is rolled"
        " instance by instance, verified, and taken back by itself when it is not well.",
    )
    picture.text(20, 30, "The deployment process", "h")
    names, places = pipeline()
    built = [one for one in names if one != "deploy"]
    boxes = [("commit", "merge request")] + [
        (name, _STAGE.get(re.split(r"[ -]", name)[0], "")) for name in built
    ]

    # The pipeline
    columns = min(6, len(boxes))
    rows = -(-len(boxes) // columns)
    picture.box(16, 46, WIDTH - 32, 36 + 74 * rows, "zone", "pipeline", "zone")
    picture.text(28, 65, "pipeline: a stage that fails ends it", "s m")
    width = (WIDTH - 56 - 22 * (columns - 1)) / columns
    for index, (name, below) in enumerate(boxes):
        x = 28 + (index % columns) * (width + 22)
        y = 76.0 + 74 * (index // columns)
        lines = [(name, "b"), (below, "s m")] if below else [(name, "b")]
        if below and width_of(below, "s m") > width - 6:
            lines = [(name, "b"), *((word, "s m") for word in below.split())]
        picture.card(x, y, width, 58, lines, name)
        if index % columns:
            picture.arrow((x - 22, y + 29), (x, y + 29))
        elif index:
            picture.arrow((WIDTH - 28 - width / 2, y - 16), (WIDTH - 28 - width / 2, y - 8),
                          (28 + width / 2, y - 8), (28 + width / 2, y))  # fmt: skip
    y = 46 + 36 + 74 * rows
    picture.arrow((380, y), (380, y + 30))

    # The store
    y += 30
    picture.card(
        190, y, 380, 60,
        [("artifact store", "b store"), (f"{counter['name']}-VERSION.tar.gz and its sha256", "c"),
         ("a version that exists is never overwritten", "s m")],
        "store", "box store",
    )  # fmt: skip
    y += 60
    for index, place in enumerate(places[:2]):
        at = y - 58 + 34 * index
        how = _STAGE.get(place, "")
        picture.box(594, at, 150, 28, "box", place)
        picture.text(602, at + 18, place, "s b")
        picture.text(736, at + 18, how, "s m", "end")
        picture.arrow((570, y - 27), (582, y - 27), (582, at + 14), (594, at + 14))
    picture.arrow((380, y), (380, y + 32))
    picture.text(392, y + 20, "make deploy VERSION=v", "c")

    # The roll
    y += 32
    steps = [
        ("fetch, verify", "sha256, and signature where asked, first"),
        ("unpack beside", f"{counter['keep']} releases are kept"),
        ("drain", f"{counter['health']['ready']} says 404: HAProxy stops sending"),
        ("finish", f"in-flight requests, up to {counter['finish_seconds']} s"),
        ("swap, start", "a link to the new release"),
        (
            "wait for ready",
            f"up to {counter['ready_seconds']} s; then it must live {bake_seconds} s",
        ),
    ]
    height = 34 + 44 * len(steps) + 10
    picture.box(16, y, 468, height, "zone", "roll", "zone")
    picture.text(28, y + 19, "each instance, one after the other; the others serve", "s m")
    for index, (name, below) in enumerate(steps):
        at = y + 30 + 44 * index
        picture.box(28, at, 140, 32, "box app" if index > 1 else "box", name)
        picture.text(98, at + 20, name, "b", "middle")
        picture.text(182, at + 20, below, "s")
        if index:
            picture.arrow((98, at - 12), (98, at))
    loop, last = y + 30 + 44 * 2 + 16, y + 30 + 44 * 5 + 16
    picture.arrow((484, last), (512, last))
    picture.arrow((28, last), (22, last), (22, loop), (28, loop))
    picture.card(
        512, y + 8, 232, 92,
        [("it does not get well", "b public"), ("this instance and those before", "s"),
         ("go back by themselves; exit 1", "s"), ("with the reason, last log lines", "s")],
        "back", "box public",
    )  # fmt: skip
    picture.arrow((496, last), (496, y + 54), (512, y + 54))
    picture.card(
        512, last - 58, 232, 76,
        [("served", "b store"), ("/version shows it; audit log", "s"), ("lock released", "s")],
        "served", "box store",
    )  # fmt: skip
    picture.card(
        512, y + 116, 232, 58,
        [("make rollback", "c"), ("the last good release, same roll", "s m")], "rollback",
    )  # fmt: skip
    picture.arrow((628, last - 58), (628, y + 174))
    y += height + 26
    picture.text(
        20, y, "One deploy at a time: a second is refused and told who, when and why.", "s m"
    )
    return finished(picture)


def finished(picture: Canvas) -> str:
    found = picture.collisions()
    if found:
        raise RuntimeError(f"{picture.title}: " + "; ".join(found))
    return str(picture)
