"""The target: a topology on DigitalOcean as `make cloud-up` makes it, and all around it that its tickets bring."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from . import facts, tickets
from .diagrams import EVERY, SPOKEN, WIDTH, connections, finished, ranges
from .svg import Canvas

# Left edge and width of the cloud, of a tier in it, and of what is elsewhere.
CLOUD, TIER, ELSEWHERE = (16.0, 534.0), (76.0, 434.0), (584.0, 152.0)
GAP = 38.0


class Outside(NamedTuple):
    """A connection with something that is not a machine of the topology. ``ticket`` brings it about."""

    parties: str
    port: str
    what: str
    ticket: str


def _outside(topology: facts.Topology, cloud: facts.Cloud) -> dict[str, Outside]:
    """By the place where its number stands."""
    ready = topology.settings("counter").get("health", {}).get("ready", "")
    entrance = "the load balancer" if cloud.balancer else "the reserved address"
    return {
        "dns": Outside("clients → DNS", "53", f"A record of the name: {entrance}; CAA", "T04"),
        "authority": Outside("authority ↔ edge", "80, 443", "edge orders; asked back on port 80", "T12"),
        "probe": Outside("outside probe → edge", "443", f"{ready} each minute, from elsewhere", "T15"),
        "registry": Outside("GitLab ↔ runners", "443", "jobs; stores and fetches releases", "T02"),
        "runner": Outside("runners → every machine", "22", "deploys of main, by DEPLOY_STATE", "T07"),
        "ssh": Outside("controller → every machine", "22", "make …; fetches releases from GitLab", "T08"),
        "account": Outside("controller → cloud's API", "443", "make cloud-up, with the token", "T01"),
        "people": Outside("operators → every machine", "22", "each with a key of their own", "T18"),
        "bucket": Outside("store → bucket", "443", "backups, encrypted before they leave", "T16"),
        "pager": Outside("monitor → pager", "443", "alerts, with the pager's token", "T15"),
        "switch": Outside("monitor → dead man's switch", "443", "each minute; it alarms at silence", "T15"),
    }  # fmt: skip


def _words(topology: facts.Topology, cloud: facts.Cloud) -> list[str]:
    """The picture for who does not see it, a line each."""
    words = [
        f"{one.name} ({', '.join(one.roles)}): {cloud.sizes[one.name]}, "
        + (f"{cloud.backups[one.name]} backups, " if one.name in cloud.backups else "")
        + f"cloud firewall {cloud.firewalls[one.name]}, runs {', '.join(one.services)}"
        for one in topology.machines
    ]
    for one in connections(topology):
        words.append(f"{one.source} → {one.target}: {one.label} ({one.formula})")
    known = {one.id for one in tickets.load()}
    for link in _outside(topology, cloud).values():
        if link.ticket not in known:
            raise RuntimeError(f"cloud_diagrams.py: {link.parties}: there is no {link.ticket}")
        words.append(f"{link.parties}: {link.port}, {link.what} ({link.ticket})")
    return words


def target(topology: facts.Topology, cloud: facts.Cloud) -> str:
    """Machines, firewalls, addresses, trust zones, and what they need around them."""
    tiers, wanted, outside = topology.tiers(), connections(topology), _outside(topology, cloud)
    numbers = {name: len(wanted) + index for index, name in enumerate(outside, 1)}
    every = [set(one.services) for one in topology.machines]
    common = [name for name in topology.machines[0].services if all(name in one for one in every)]
    if len(every) == 1:
        common = [name for name in common if name in ("base", "firewalld", "fail2ban")]
    price = f"{cloud.region}, {len(topology.machines)} droplets, ${cloud.price:.2f} a month"
    picture = Canvas(
        WIDTH,
        f"Target topology {topology.name} on DigitalOcean",
        "\n".join([f"{price}, before tax and traffic.", *_words(topology, cloud)]),
    )
    picture.text(20, 30, f"Target topology: {topology.name}, in the cloud", "h")
    picture.text(WIDTH - 20, 30, price, "s m", "end")

    # Internet
    picture.box(16, 46, WIDTH - 32, 92, "zone", "Internet", "zone")
    picture.text(28, 64, "Internet: nobody is trusted", "s m")
    around = [
        ("DNS", "zone, CAA, DNSSEC", "dns"),
        ("authority", "certificates, by ACME", "authority"),
        ("clients", "browsers, curl", ""),
        ("outside probe", "another provider", "probe"),
    ]
    for index, (name, below, key) in enumerate(around):
        x = 28 + 182.0 * index
        picture.card(x, 74, 158, 50, [(name, "b"), (below, "s m")], name)
        if key:
            picture.badge({"dns": 104, "authority": 306, "probe": 669}[key], 150, numbers[key])

    # The cloud: entrance, then tiers, one below the other
    left, inner = TIER
    right = left + inner
    top = 176.0
    entrance = top + 32
    if cloud.balancer:
        check = cloud.balancer["health_check"]
        nodes = cloud.balancer["size_unit"]
        asks = f"asks each edge every {check['check_interval_seconds']} s; passes TCP on, PROXY protocol"
        shown = [(f"load balancer {cloud.network}", "b edge"),
                 (f"{nodes} node{'s' if nodes > 1 else ''}, a public address of its own", "s"), (asks, "s m")]  # fmt: skip
    else:
        shown = [("reserved address", "b edge"), ("the name's A record leads here", "s"),
                 ("stays when the edge goes; assigned by a person (T11)", "s m")]  # fmt: skip
    picture.card(left, entrance, inner, 62, shown, "entrance", "box edge")
    picture.arrow((88, 124), (88, entrance), classes="later")
    picture.arrow((290, 124), (290, entrance))
    picture.arrow((440, 124), (440, entrance))
    picture.arrow((653, 124), (653, 160), (480, 160), (480, entrance))

    def rows(members: list[facts.Machine]) -> list[list[facts.Machine]]:
        return [members[at : at + 3] for at in range(0, len(members), 3)]

    y = entrance + 62 + 58
    network = y - 28
    places: dict[str, tuple[float, float]] = {}
    for tier, members in tiers.items():
        own = [name for name in members[0].services if name not in common]
        card = 46.0 + 17 * len(own)
        height = 30 + len(rows(members)) * (card + 8) + 2
        places[tier] = (y, height)
        picture.box(left, y, inner, height, f"group {tier}", tier, "group")
        count = f" \u00d7 {len(members)}" if len(members) > 1 else ""
        picture.text(left + 12, y + 19, f"{tier}{count}", f"b {tier}")
        picture.text(right - 12, y + 19, f"firewall {cloud.firewalls[members[0].name]}", "c m", "end")  # fmt: skip
        for row, machines in enumerate(rows(members)):
            width = min(200.0, (inner - 20 - 8 * (len(machines) - 1)) / len(machines))
            start = left + (inner - len(machines) * width - 8 * (len(machines) - 1)) / 2
            for index, one in enumerate(machines):
                lines = [(one.name, "b"), (cloud.sizes[one.name], "c m")]
                for name in own:
                    opened = ranges({item.port for item in one.openings if item.formula == name})
                    lines.append((f"{name} :{opened}" if opened else name, "s"))
                picture.card(start + index * (width + 8), y + 30 + row * (card + 8), width, card, lines, one.name)  # fmt: skip
        y += height + GAP
    bottom = y - GAP + 12
    picture.box(CLOUD[0], top, CLOUD[1], bottom - top + 8, "zone", "cloud", "zone")
    picture.text(106, top + 20, f"DigitalOcean, {cloud.region}", "s m")
    picture.box(CLOUD[0] + 8, network, CLOUD[1] - 16, bottom - network, "zone", "network", "zone")
    picture.text(32, network + 17, f"private network, VPC {cloud.network}", "s m")
    picture.text(left + inner - 4, network + 17, "public addresses: ssh", "s m", "end")  # fmt: skip

    # Between machines
    drawn: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, link in enumerate(wanted, 1):
        drawn[(link.source, link.target)].append(number)
    order = list(tiers)
    middle = left + inner / 2
    bus = {True: left - 14.0, False: left - 34.0}
    for (source, target_), marks in drawn.items():
        spots: list[tuple[float, float]] = []
        if target_ in places and source in (facts.ANYBODY, facts.BALANCER):
            picture.arrow((middle, entrance + 62), (middle, places[target_][0]))
            spots = [(middle + 18 + 22 * index, entrance + 76) for index in range(len(marks))]
        elif source == target_:
            at = places[source][0] + 40
            picture.arrow((right, at), (right + 16, at), (right + 16, at + 40), (right, at + 40))
            spots = [(right + 16, at + 10 + 20 * index) for index in range(len(marks))]
        elif "monitor" in (source, target_) and "monitor" in places:
            is_asking = source == "monitor"
            other = target_ if is_asking else source
            ends = [tier for tier in order if tier != "monitor"] if other == EVERY else [other]
            x, desk = bus[is_asking], places["monitor"][0] + (36 if is_asking else 66)
            if other == EVERY:
                heights = [places[tier][0] + (44 if is_asking else 64) for tier in ends]
                picture.arrow((x, heights[0]), (x, desk), tip=False)
                for height in heights:
                    picture.arrow(
                        *((x, height), (left, height))[:: 1 if is_asking else -1], tip=is_asking
                    )
                picture.arrow(
                    *((left, desk), (x, desk))[:: 1 if is_asking else -1], tip=not is_asking
                )
                spots = [(x, desk - 24 - 20 * index) for index in range(len(marks))]
            else:
                spots = [(x, places[other][0] + 18 + 20 * index) for index in range(len(marks))]
        elif source in places and target_ in places:
            at = places[target_][0]
            picture.arrow((middle, at - GAP), (middle, at))
            spots = [(middle + 18 + 22 * index, at - GAP / 2) for index in range(len(marks))]
        elif source == facts.ANYBODY:
            spots = [(CLOUD[0] + CLOUD[1] - 24, network + 14)]
        for mark, spot in zip(marks, spots, strict=True):
            picture.badge(*spot, mark)

    # Elsewhere
    x, width = ELSEWHERE
    gate = CLOUD[0] + CLOUD[1]
    picture.box(x - 8, top, width + 16, bottom - top + 8, "zone", "elsewhere", "zone")
    picture.text(x, top + 20, "outside of this cloud", "s m")
    cards = [
        ("GitLab", ["repository, pipeline,", "registry of releases"], "box store", "", 68.0),
        ("runners", ["in Docker; one apart", "makes real machines"], "box", "runner", 68.0),
        ("controller", ["a checkout; all keys", "in .lab/, sealed copy"], "box app", "ssh", 68.0),
        ("operators", ["on call, each a key"], "box", "people", 52.0),
    ]  # fmt: skip
    y = top + 32
    for name, lines_below, classes, key, height in cards:
        colour = classes.removeprefix("box").strip()
        picture.card(x, y, width, height, [(name, f"b {colour}".strip()), *((one, "s m") for one in lines_below)], name, classes)  # fmt: skip
        if key:
            at = y + height / 2
            picture.arrow((x, at), (gate - 8, at))
            picture.badge(gate + 14, at, numbers[key])
        if name in ("GitLab", "controller"):
            below_key = "registry" if name == "GitLab" else "account"
            if name == "GitLab":
                picture.arrow((x + width / 2, y + height + 24), (x + width / 2, y + height))
                picture.badge(x + width / 2 + 20, y + height + 12, numbers[below_key])
            else:
                picture.badge(gate + 14, y + height / 2 + 22, numbers[below_key])
        if name == "operators":
            picture.arrow((x + width / 2, y), (x + width / 2, y - 24))
        y += height + 24

    def beyond(tier: str, offset: float, name: str, below: str, key: str, classes: str) -> None:
        at = places[tier][0] + offset
        picture.card(x, at, width, 48, [(name, f"b {classes}"), (below, "s m")], name, f"box {classes}")  # fmt: skip
        picture.arrow((right, at + 24), (x, at + 24))
        picture.badge(gate + 14, at + 24, numbers[key])

    last = places["store"][1]
    beyond("store", last - 52, "bucket", "another provider", "bucket", "store")
    if "monitor" in places:
        beyond("monitor", 0, "pager", "rings who is on call", "pager", "monitor")
        beyond("monitor", places["monitor"][1] - 48, "dead man's switch", "rings at silence", "switch", "monitor")  # fmt: skip

    # Legend
    y = bottom + 36
    picture.text(20, y, "Who may connect to whom; cloud firewall and firewalld on the machine deny all else", "b")  # fmt: skip
    y += 24
    for number, link in enumerate(wanted, 1):
        picture.badge(32, y - 4, number)
        picture.text(52, y, f"{link.source} → {link.target}", "s")
        picture.text(270, y, link.label, "c")
        spoken = SPOKEN.get((link.formula, link.source)) or SPOKEN.get(link.formula)
        picture.text(410, y, link.formula + (f": {spoken}" if spoken else ""), "s m")
        y += 21
    y += 12
    picture.text(20, y, "Around it, by ticket", "b")
    y += 24
    for name, item in outside.items():
        picture.badge(32, y - 4, numbers[name])
        picture.text(52, y, item.parties, "s")
        picture.text(270, y, item.port, "c")
        picture.text(340, y, item.ticket, "c m")
        picture.text(410, y, item.what, "s m")
        y += 21
    y += 6
    picture.paragraph(20, y, WIDTH - 40, f"on every machine: {', '.join(common)}; outwards all is open (security updates)")  # fmt: skip
    return finished(picture)
