"""Backup and restore, and the failovers of edge and store: of the formulas' settings and cloud.balancers.d."""

from __future__ import annotations

from . import facts
from .diagrams import WIDTH, finished
from .failures import balancer_seconds, defaults, seconds
from .svg import Canvas


def _steps(picture: Canvas, y: float, name: str, words: str, steps: list[tuple[str, str]]) -> float:
    """A zone of steps, one below the other; the y below."""
    height = 34 + 42 * len(steps) + 6
    picture.box(16, y, 468, height, "zone", name, "zone")
    picture.text(28, y + 19, name, "b")
    picture.text(40 + 8.6 * len(name), y + 19, words, "s m")
    for index, (step, below) in enumerate(steps):
        at = y + 30 + 42 * index
        picture.box(28, at, 130, 30, "box store", step)
        picture.text(93, at + 20, step, "b", "middle")
        picture.text(172, at + 20, below, "s")
        if index:
            picture.arrow((93, at - 12), (93, at))
    return y + height


def backup() -> str:
    """From the store's disk to the bucket, and back."""
    settings = defaults("backup")
    schedule = settings["schedule"].removeprefix("*-*-* ").removesuffix(":00")
    jitter = round(settings["jitter"] / 60)
    rules = {one["alert"] for one in facts.alerts() if one["formula"] == "backup"}
    if rules != {"BackupFailed", "BackupTooOld"}:
        raise RuntimeError(f"recovery_diagrams.py: alerts of the backup: {', '.join(sorted(rules))}")  # fmt: skip
    taken = [
        ("snapshot", "as a replica gets one, by a user of its own"),
        ("load, count", "in a Redis of its own, thrown away afterwards"),
        ("encrypt", "by age, to the store's key and to yours"),
        ("write", "to the bucket; without backup:s3 to a folder"),
        ("read back", "fetched, decrypted, compared"),
        ("note", "written last: without it, it is no backup"),
        ("keep", f"{settings['keep_days']} days, and never fewer than {settings['keep_at_least']}"),
    ]
    restored = [
        ("choose", "the last, or VERSION=; a name is typed"),
        ("fetch, decrypt", "by the store's key, or yours: IDENTITY=file"),
        ("load, count", "without network; a drill, TEST=1, ends here"),
        ("compare", "a lower count is refused, but for FORCE=1"),
        ("swap", "Redis stops for about a second: 503"),
        ("serve", "if Redis does not start: the data before"),
    ]
    picture = Canvas(
        WIDTH,
        "Backup and restore",
        "\n".join(
            [
                f"A backup at {schedule}, up to {jitter} minutes later, or by make backup:",
                *(f"{name}: {words}" for name, words in taken),
                "A restore, by a person: make restore:",
                *(f"{name}: {words}" for name, words in restored),
                f"BackupFailed says that one failed, BackupTooOld that the last good one is older than {settings['max_age_hours']} h",
            ]
        ),
    )
    picture.text(20, 30, "Backup and restore of the store", "h")
    top = 46.0
    words = f"by itself at {schedule}, up to {jitter} min later; make backup"
    y = _steps(picture, top, "backup", words, taken)
    side, wide = 524.0, 220.0
    picture.card(
        side, top + 8, wide, 76,
        [("Redis, on the store", "b store"), (f"{settings['count_key']}, every", "s"), ("acknowledged count on disk", "s")],
        "redis", "box store",
    )  # fmt: skip
    picture.arrow((side, top + 46), (484, top + 46))
    picture.card(
        side, top + 106, wide, 76,
        [("keys that open it", "b app"), ("the store's; a copy: controller", "s"), ("yours: offline, on no machine", "s")],
        "keys", "box app",
    )  # fmt: skip
    picture.arrow((side, top + 130), (484, top + 130))
    picture.card(
        side, top + 206, wide, 76,
        [("bucket", "b store"), ("another provider; versioning,", "s"), ("so that none can be destroyed", "s")],
        "bucket", "box store",
    )  # fmt: skip
    write = top + 30 + 42 * 3 + 15
    picture.arrow((484, write), (504, write), (504, top + 230), (side, top + 230))
    picture.arrow((side, top + 258), (504, top + 258), (504, y + 109), (484, y + 109))
    below = _steps(picture, y + 22, "restore", "a person: make restore", restored)
    picture.card(
        side, y + 40, wide, 92,
        [("alerts", "b monitor"), ("BackupFailed: the last failed", "s"), (f"BackupTooOld: {settings['max_age_hours']} h without", "s"), ("a good one", "s")],
        "told", "box monitor",
    )  # fmt: skip
    picture.card(
        side, y + 152, wide, 92,
        [("what can be lost", "b public"), ("counts since the last backup:", "s"), ("a day at most; an hour by", "s"), ("schedule: hourly (T26)", "s")],
        "costs", "box public",
    )  # fmt: skip
    y = below + 26
    notes = (
        "The drill is due monthly, the real restore yearly and before there are users (T16, T26). What was there before a restore stays"
        " on the store until the next one.",
        "Several stores: replicas take the backups, a restore goes into the master, and its replicas copy it.",
    )
    return finished(picture, notes, y)


def failover(topology: facts.Topology) -> str:
    """What happens when the edge or the store that serves is gone, and how long that takes by the settings."""
    keepalived, sentinel, haproxy = (defaults(name) for name in ("keepalived", "sentinel", "haproxy"))  # fmt: skip
    check, advert = keepalived["check"], keepalived["advert_interval"]
    stores = [one.name for one in topology.machines if "store" in one.roles]
    edges = [one.name for one in topology.machines if "edge" in one.roles]
    majority = len(stores) // 2 + 1
    down = seconds(f"{sentinel['down_after']}ms")
    # keepalived's README: the other has it a tenth of a second after it was noticed. Decision 35: one to two seconds more.
    take, promote = 0.1, 2.0
    none, waits = "{:.1f} s: nobody is answered", "about {:g} s: requests wait, none fails"
    share = "its connections fail"
    rows: list[tuple[str, list[tuple[str, float, str, str]]]] = [
        (
            "Edges on a network of one's own: VRRP",
            [
                ("HAProxy killed for good", check["fall"] * check["interval"] + take, "felt", none),
                ("HAProxy frozen", check["interval"] + check["fall"] * check["timeout"] + take, "felt", none),
                ("machine off, cable out", 3 * advert + take, "felt", none),
                ("make failover EDGE=1, an apply", 1.0, "waits", waits),
            ],
        ),
        (
            "Edges in the cloud: the load balancer",
            [
                ("an edge is lost", float(balancer_seconds()), "felt", f"{balancer_seconds()} s: {share}"),
                ("an edge stops: it leaves first", float(haproxy["balancer"]["leave_seconds"]), "nothing", "nothing is felt"),
            ],
        ),
        (
            f"Stores: Sentinel, {majority} of {len(stores)} votes",
            [
                ("the master is lost", down + promote, "felt", f"{down + 1:g} to {down + promote:g} s: 503"),
                ("a replica is lost", 0.0, "nothing", "nothing is felt"),
                ("make failover, an apply, a reboot", 1.0, "waits", waits),
            ],
        ),
    ]  # fmt: skip
    picture = Canvas(
        WIDTH,
        "Failover of edge and store",
        "\n".join(
            [f"{group}. {name}: {words.format(length)}" for group, listed in rows for name, length, _, words in listed]
            + [f"A number is given when {majority} of {len(stores)} stores have it; the application asks a majority of Sentinels who is master"]
        ),
    )  # fmt: skip
    picture.text(20, 30, f"Failover of edge and store: {topology.name}", "h")

    # Edges
    picture.box(16, 46, 356, 262, "zone", "edges", "zone")
    picture.text(28, 65, "edges", "b edge")
    picture.card(104, 76, 180, 34, [("clients", "b")], "clients")
    picture.card(44, 134, 300, 52, [("one address", "b edge"), ("floats by VRRP, or the load balancer's", "s m")], "address", "box edge")  # fmt: skip
    picture.arrow((194, 110), (194, 134))
    picture.card(36, 224, 150, 68, [(edges[0], "b"), ("HAProxy does not", "s public"), ("answer", "s public")], "edge one", "box public")  # fmt: skip
    picture.card(204, 224, 150, 68, [(edges[1], "b"), ("the same certificate,", "s"), ("limits, application", "s")], "edge two", "box edge")  # fmt: skip
    picture.arrow((111, 186), (111, 224), classes="later")
    picture.arrow((279, 186), (279, 224))

    # Stores
    picture.box(388, 46, 356, 262, "zone", "stores", "zone")
    picture.text(400, 65, "stores", "b store")
    picture.card(416, 76, 300, 52, [("application", "b app"), (f"asks: who is master? believes {majority} of {len(stores)}", "s m")], "app", "box app")  # fmt: skip
    places = [(400.0, "was the master", "public"), (514.0, "promoted", "store"), (628.0, "replica", "store")]  # fmt: skip
    for (x, words, colour), name in zip(places, stores, strict=False):
        picture.card(x, 166, 104, 66, [(name, f"b {colour}"), (words, f"s {colour}"), ("+ Sentinel", "s m")], name, f"box {colour}")  # fmt: skip
    picture.arrow((452, 128), (452, 166), classes="later")
    picture.arrow((566, 128), (566, 166))
    picture.arrow((618, 199), (628, 199))
    picture.paragraph(400, 254, 332, f"A number is given when {majority} have it. The old master, cut off, gives none; back again, it is a replica.")  # fmt: skip

    # How long
    y = 340.0
    # Bars, whatever the settings, then their words.
    left, beside = 298.0, 500.0
    longest = max(length for _, listed in rows for _, length, _, _ in listed)
    scale = (beside - 16 - left) / longest
    picture.text(20, y, "How long, by the settings", "b")
    y += 22
    picture.text(beside, y, "seconds", "s m")
    bottom = y + 18 + sum(30 + 24 * len(listed) for _, listed in rows)
    for second in range(0, int(longest) + 1, 2 * (1 + int(longest) // 14)):
        x = left + second * scale
        picture.text(x, y, str(second), "s m", "middle")
        picture.line(x, y + 6, x, bottom, "rule")
    y += 28
    for group, listed in rows:
        picture.text(20, y, group, "b s")
        y += 24
        for name, length, kind, words in listed:
            picture.text(32, y, name, "s")
            if length:
                picture.box(left, y - 11, length * scale, 14, {"felt": "bar critical", "waits": "bar", "nothing": "wait"}[kind], name)  # fmt: skip
            picture.text(beside, y, words.format(length), "s")
            y += 24
        y += 6
    y += 8
    notes = (
        "Stores: the time until the master is taken for down is a setting (sentinel:down_after), one to two seconds more were seen (decision 35)."
        " Two stores gone at once: 503 until one is back.",
        "In the cloud nothing floats, and the real load balancer was never measured (decision 42). One edge, one store: nothing takes over;"
        " a person makes it anew (T26, T27).",
    )
    return finished(picture, notes, y)
