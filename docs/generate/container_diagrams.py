"""The diagrams of a host that runs containers, from its units (containers/host, containers/application) and facts.py."""

from __future__ import annotations

import re
from typing import NamedTuple

from control.containers import images, rendering

from . import facts
from .diagrams import WIDTH, finished, ranges
from .svg import Canvas

# What each unit is to a reader, and its colour; a unit without a word here is refused, so that no new one is forgotten.
ROLES = {
    "haproxy": ("edge", "TLS, limits, rotation"),
    "counter@": ("app", "one container an instance"),
    "redis-server": ("store", "every count on the disk"),
    "prometheus": ("monitor", "metrics, alerts"),
    "prometheus-alertmanager": ("monitor", "alerts to people"),
    "stack-backup": ("store", "by its timer, verified"),
}


# What is mounted from it (Vagrantfile, control/lab/container_host.py).
DISK = "/var/lib/redis, /var/lib/stack, /var/lib/apps, /var/backups"


class Unit(NamedTuple):
    """A quadlet: its unit, and its account."""

    name: str
    account: str


def units() -> dict[str, Unit]:
    """The quadlets of the host and of the counter, by unit."""
    found = {}
    paths = sorted((rendering.TEMPLATES / "etc/containers/systemd").iterdir())
    for path in [*paths, rendering.APPLICATION / "unit.container.j2"]:
        name = path.name.removesuffix(".j2").removesuffix(".container")
        name = "counter@" if name == "unit" else name
        text = path.read_text(encoding="utf-8")
        user = re.search(r"^User=\{\{ *accounts(?:\.|\[')([a-z-]+)", text, re.M)
        found[name] = Unit(name, user[1] if user else "counter")
    if missing := set(found) ^ set(ROLES):
        raise RuntimeError(f"container_diagrams.py: ROLES: {', '.join(sorted(missing))}")
    return found


def target_topology(topology: facts.Topology, cloud: facts.Cloud) -> str:
    """One host: what is let in, containers, what is the host's own, and the disk that outlives it."""
    (host,) = topology.machines
    picture = Canvas(
        WIDTH,
        f"Target topology {topology.name} on DigitalOcean",
        f"One host, {host.name}, {cloud.sizes[host.name]} in {cloud.region}, ${cloud.price:.2f} a month, that runs"
        f" {', '.join(units())} as containers, behind cloud firewall {cloud.firewalls[host.name]}.",
    )
    picture.text(20, 30, f"Target topology: {topology.name}, in the cloud", "h")
    price = f"{cloud.region}, one droplet, ${cloud.price:.2f} a month"
    picture.text(WIDTH - 20, 30, price, "s m", "end")
    picture.box(16, 46, WIDTH - 32, 84, "zone", "Internet", "zone")
    picture.text(28, 64, "Internet: nobody is trusted", "s m")
    picture.card(140, 72, 160, 44, [("clients", "b"), ("browsers, curl", "s m")], "clients")
    picture.card(440, 72, 220, 44, [("controller, operators", "b"), ("ssh, keys only", "s m")], "operators")  # fmt: skip
    top = 158.0
    picture.box(16, top, WIDTH - 32, 468, "zone", host.name, "zone")
    picture.text(232, top + 18, f"{host.name}, {cloud.sizes[host.name]}: no Salt, no Python", "s m")  # fmt: skip
    site = ranges({one.port for one in host.openings if one.formula == "haproxy"})
    ssh = ranges({one.port for one in host.openings if one.formula == "base"})
    picture.card(
        60, top + 32, 640, 44,
        [("cloud firewall, nftables: deny by default", "b public"), (f"{site} for the site, {ssh} for ssh; bans by address, over a reload and a reboot", "s")],
        "nftables", "box public",
    )  # fmt: skip
    picture.arrow((220, 116), (220, top + 32))
    picture.arrow((550, 116), (550, top + 32))
    known, at = units(), top + 106

    def card(name: str, x: float, y: float, w: float = 200) -> None:
        colour, words = ROLES[name]
        unit = known[name]
        picture.card(
            x, y, w, 62,
            [(name.replace("@", "@1, @2 …").removeprefix("prometheus-"), f"b {colour}"), (words, "s"),
             (f"uid {rendering.ACCOUNTS[unit.account]}", "c m")],
            name, f"box {colour}",
        )  # fmt: skip

    picture.box(44, at - 8, 420, 282, "group edge", "containers", "group")
    picture.text(166, at + 10, "read-only, no capability but for low ports", "s m")
    card("haproxy", 56, at + 24)
    card("counter@", 56, at + 110)
    card("redis-server", 56, at + 196)
    card("prometheus", 268, at + 24, 184)
    card("prometheus-alertmanager", 268, at + 110, 184)
    card("stack-backup", 268, at + 196, 184)
    picture.arrow((156, top + 76), (156, at + 24))
    picture.arrow((156, at + 86), (156, at + 110))
    picture.arrow((156, at + 172), (156, at + 196))
    picture.arrow((268, at + 227), (256, at + 227))
    picture.arrow((360, at + 86), (360, at + 110))
    own = [
        ("systemd, podman", "quadlets start and watch all"),
        ("journald", "every line; make logs"),
        ("stack-metrics", "measured when asked"),
        ("stack-swap, stack-roll", "checked, swapped, taken back"),
        ("sshd", "the controller's way in"),
    ]
    picture.box(480, at - 8, 248, 282, "group app", "host", "group")
    picture.text(492, at + 10, "the host's own", "s m")
    for index, (name, words) in enumerate(own):
        picture.card(492, at + 24 + 49 * index, 224, 42, [(name, "b"), (words, "s m")], name)
    picture.arrow((680, top + 76), (680, at - 8))
    disk = at + 290
    picture.card(
        44, disk, 684, 58,
        [("the data", "b store"), (DISK, "c"),
         ("in the lab a host made anew goes on with them; in the cloud it goes with the droplet", "s m")],
        "disk", "box store",
    )  # fmt: skip
    picture.arrow((156, at + 258), (156, disk))
    return finished(picture)


def deployment(topology: facts.Topology) -> str:
    """From an artifact to instances that run its image, and back."""
    counter = topology.settings("counter")
    picture = Canvas(
        WIDTH,
        "The deployment process on a host that runs containers",
        "The artifact that machines get becomes an image of the same bytes everywhere, is brought by digest, and rolled instance by"
        " instance.",
    )
    picture.text(20, 30, "The deployment process: containers", "h")
    picture.box(16, 46, WIDTH - 32, 112, "zone", "controller", "zone")
    picture.text(28, 65, "controller: make deploy VERSION=v", "s m")
    before = [
        (["artifact store", f"{counter['name']}-v.tar.gz"], "box store"),
        (["fetch, verify", "sha256, signature"], "box"),
        (["image", "base layer, artifact"], "box app"),
        (["bring", "layers it lacks, ssh"], "box"),
    ]
    for index, ((name, below), classes) in enumerate(before):
        x = 28 + 178.0 * index
        picture.card(x, 80, 160, 58, [(name, "b"), (below, "s m")], name, classes)
        if index:
            picture.arrow((x - 18, 109), (x, 109))
    picture.arrow((642, 138), (642, 174), (500, 174), (500, 236), (484, 236))
    y = 190.0
    steps = [
        ("look", "is the image here, by its digest; lock and record"),
        ("move a name", f"localhost/{images.image_name('counter')}:instance-N to the image"),
        ("drain", f"{counter['health']['ready']} says 404: HAProxy stops sending"),
        ("finish, start", f"up to {counter['finish_seconds']} s; then the new container"),
        ("wait for ready", f"and in rotation, up to {counter['ready_seconds']} s"),
        ("bake", f"it must live {counter['bake_seconds']} s, and then serve"),
    ]
    height = 34 + 44 * len(steps) + 10
    picture.box(16, y, 468, height, "zone", "roll", "zone")
    picture.text(28, y + 19, "stack-roll, on the host: each instance, one after the other", "s m")
    for index, (name, below) in enumerate(steps):
        at = y + 30 + 44 * index
        picture.box(28, at, 130, 32, "box app" if index else "box", name)
        picture.text(93, at + 20, name, "b", "middle")
        picture.text(170, at + 20, below, "s")
        if index:
            picture.arrow((93, at - 12), (93, at))
    last = y + 30 + 44 * 5 + 16
    picture.card(
        512, y + 40, 232, 92,
        [("it is not healthy", "b public"), ("the names move back, and those", "s"),
         ("instances start again; exit 1", "s"), ("with the reason, last log lines", "s")],
        "back", "box public",
    )  # fmt: skip
    picture.arrow((484, last - 88), (498, last - 88), (498, y + 86), (512, y + 86))
    picture.card(
        512, y + 150, 232, 58,
        [("make rollback", "c"), ("an image that is still there", "s m")], "rollback",
    )  # fmt: skip
    picture.card(
        512, last - 32, 232, 58,
        [("served", "b store"), ("/version shows it; audit log", "s")], "served", "box store",
    )  # fmt: skip
    picture.arrow((484, last), (512, last))
    picture.arrow((628, y + 208), (628, last - 32))
    picture.text(20, y + height + 26, "A roll goes on without its deployer; the next begins with what does not serve.", "s m")  # fmt: skip
    return finished(picture)
