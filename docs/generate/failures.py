"""What fails, what users feel, which alert and runbook, how long: failures.yaml as a page and a picture."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control.by_path import load_yaml
from control.cloud import account

from . import facts
from .diagrams import WIDTH, finished
from .svg import Canvas, wrapped

FILE = Path(__file__).with_name("failures.yaml")
# Where a figure comes from, and whether that is a promise kept by a test, a figure, or nothing.
SOURCES = {
    "promised": "promised",
    "measured": "measured in the lab",
    "tested": "held by a test",
    "settings": "follows from settings",
    "nobody": "not measured",
}
_SERVICES = "A service fails"
_KEYS = {"fails", "of", "in", "feel", "alerts", "told", "lasts", "by", "source", "says"}


@dataclass(frozen=True)
class Failure:
    """A row. ``alerts``: the rules themselves (facts.alerts); ``topologies``: empty for all."""

    group: str
    fails: str
    of: tuple[str, ...]
    topologies: tuple[str, ...]
    feel: str
    alerts: tuple[dict[str, Any], ...]
    told: str
    lasts: str
    by: str
    source: str

    @property
    def wakes(self) -> bool:
        return any(one["labels"]["severity"] == "page" for one in self.alerts)


@functools.cache
def defaults(formula: str) -> dict[str, Any]:
    return dict(load_yaml(facts.ROOT / "salt" / formula / "defaults.yaml"))


def balancer_seconds() -> int:
    """Until the cloud's load balancer sends an edge that is gone nothing more."""
    check = account.read_settings("balancers")["edge"]["health_check"]
    return int(check["check_interval_seconds"] * check["unhealthy_threshold"])


def _setting(name: str) -> str:
    if name == "balancer:seconds":
        return str(balancer_seconds())
    formula, *path = name.split(":")
    value: Any = defaults(formula)
    for key in path:
        value = value[key]
    return str(value)


def seconds(text: Any) -> float:
    """`1m` and `15s` of Prometheus, or a number, in seconds."""
    found = re.fullmatch(r"([\d.]+)(ms|s|m|h|d)?", str(text))
    if not found:
        raise ValueError(f"no duration: {text}")
    return float(found[1]) * {"ms": 0.001, "m": 60, "h": 3600, "d": 86400}.get(found[2], 1)


def told_after(alert: dict[str, Any]) -> int:
    """Seconds from a fault to the message, added up: reading, scraping, evaluating, the rule's `for`, grouping."""
    prometheus = defaults("prometheus")
    waits = [prometheus["alerts"][key] for key in ("group_wait", "group_interval")]
    steps = (
        defaults("collectd")["interval"],
        prometheus["scrape_interval"],
        prometheus["evaluation_interval"],
        alert.get("for", 0),
        max(waits, key=seconds),
    )
    return round(sum(map(seconds, steps)))


def _felt(alert: str) -> str:
    """The first sentence of what users feel, as the runbook has it."""
    text = (facts.DOCS / "runbooks" / f"{alert}.md").read_text(encoding="utf-8")
    part = re.search(r"(?s)## What users feel\n\n(.*?)(?:\n\n|\Z)", text)
    if not part:
        raise RuntimeError(f"docs/runbooks/{alert}.md: does not say what users feel")
    return re.split(r"(?<=\.) ", " ".join(part[1].split()))[0]


def _row(group: str, given: dict[str, Any], rules: dict[str, dict[str, Any]]) -> Failure:
    where = f"failures.yaml: {given.get('fails')}"
    if unknown := set(given) - _KEYS:
        raise RuntimeError(f"{where}: unknown: {', '.join(sorted(unknown))}")
    if missing := [name for name in given["alerts"] if name not in rules]:
        raise RuntimeError(f"{where}: there is no alert {missing[0]}")
    for name in given["alerts"]:
        if not (facts.DOCS / "runbooks" / f"{name}.md").exists():
            raise RuntimeError(f"{where}: {name} has no runbook")
    if given["by"] not in SOURCES:
        raise RuntimeError(f"{where}: by: is one of {', '.join(SOURCES)}")
    source = given.get("source", "")
    if (given["by"] == "nobody") == bool(source):
        raise RuntimeError(f"{where}: a figure has a source, and what nobody measured has none")
    if source:
        text = " ".join((facts.ROOT / source).read_text(encoding="utf-8").split())
        if given["says"] not in text:
            raise RuntimeError(f"{where}: {source} does not say any more: {given['says']}")
    if not given["alerts"] and not given.get("told"):
        raise RuntimeError(f"{where}: no alert, and nobody who is told")
    return Failure(
        group,
        given["fails"],
        tuple(given["of"]),
        tuple(given.get("in", ())),
        given.get("feel") or _felt(given["alerts"][0]),
        tuple(rules[name] for name in given["alerts"]),
        given.get("told", ""),
        re.sub(r"\{([a-z_:]+)\}", lambda found: _setting(found[1]), given["lasts"]),
        given["by"],
        source,
    )


def load(path: Path = FILE) -> list[Failure]:
    """Every row; RuntimeError for one that names what there is not."""
    rules = {one["alert"]: one for one in facts.alerts()}
    data = load_yaml(path)
    return [_row(part["group"], row, rules) for part in data for row in part["rows"]]


def missing(failures: Iterable[Failure], topologies: Iterable[facts.Topology]) -> list[str]:
    """Roles and formulas of the topologies that no row is about, and pages that no row has."""
    failures = list(failures)
    gaps = []
    for topology in topologies:
        rows = [one for one in failures if not one.topologies or topology.name in one.topologies]
        about = {name for one in rows for name in one.of}
        for machine in topology.machines:
            names = [*machine.roles, *machine.services]
            gaps += [f"{topology.name}: {name}" for name in names if name not in about]
    known = {rule["alert"] for one in failures for rule in one.alerts}
    about = {name for one in failures for name in one.of}
    gaps += [f"formula {one.name}" for one in facts.formulas() if one.name not in about]
    gaps += [
        f"alert {one['alert']}"
        for one in facts.alerts()
        if one["labels"]["severity"] == "page" and one["alert"] not in known
    ]
    return list(dict.fromkeys(gaps))


def of_machines(failures: list[Failure]) -> list[Failure]:
    return [one for one in failures if one.group != _SERVICES]


def of_services(failures: list[Failure]) -> list[Failure]:
    """Those that wake somebody; the others are in the table."""
    return [one for one in failures if one.group == _SERVICES and one.wakes]


def _topologies(row: Failure) -> str:
    return ", ".join(row.topologies) or "all"


def page(failures: list[Failure]) -> str:
    """The table, each alert with its rule's severity and its runbook."""
    lines = [
        "# What fails, and what then",
        "",
        "Made from `docs/generate/failures.yaml`, the rules and the runbooks: an alert that there is not, a figure that its source"
        " does not say any more, a role or service without a row stops `make docs`. *alert after*: reading, scraping, evaluating, the rule's own"
        " time and grouping, added up. *how long* says where it is from; much was measured in the lab alone, and what nobody has measured says so.",
        "",
        "![A machine is lost: what users feel, which alert with which runbook says so, how long it lasts](../diagrams/failures-machines.svg)",
        "",
        "![A service fails: the same, of what wakes somebody](../diagrams/failures-services.svg)",
    ]
    group = ""
    for one in failures:
        if one.group != group:
            group = one.group
            lines += ["", f"## {group}", "",
                      "| what fails | in | what users feel | alert, runbook | alert after | how long |",
                      "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
        alerts = [
            f"[{rule['alert']}](../runbooks/{rule['alert']}.md) ({rule['labels']['severity']})"
            for rule in one.alerts
        ]
        told = f"about {told_after(one.alerts[0])} s" if one.alerts and not one.told else one.told
        source = f"{SOURCES[one.by]}"
        if one.source.startswith("docs/"):
            source = f"[{source}](../{one.source.removeprefix('docs/')})"
        elif one.source:
            source = f"{source}, `{one.source}`"
        lines.append(
            f"| {one.fails} | {_topologies(one)} | {one.feel} | {', '.join(alerts) or 'none'} | {told} | {one.lasts} ({source}) |"
        )
    return "\n".join([*lines, ""])


# Left edge and width of the columns.
_COLUMNS = ((28.0, 142.0), (190.0, 168.0), (378.0, 160.0), (558.0, 178.0))


def picture(failures: list[Failure], title: str) -> str:
    """A chain for each fault: what fails, what users feel, who is woken by which runbook, how long."""
    canvas = Canvas(
        WIDTH,
        f"{title}: what users feel, which alert, how long",
        "\n".join(
            f"{one.fails} ({_topologies(one)}): {one.feel} Alert:"
            f" {', '.join(rule['alert'] for rule in one.alerts) or one.told} How long: {one.lasts} ({SOURCES[one.by]})."
            for one in failures
        ),
    )
    canvas.text(20, 30, title, "h")
    canvas.text(WIDTH - 20, 30, "in: the topology; none: each", "s m", "end")
    y, group = 44.0, ""
    for row in failures:
        if row.group != group:
            group = row.group
            y += 22
            heads = (group, "what users feel", "alert = its runbook", "how long")
            for (x, _), text in zip(_COLUMNS, heads, strict=True):
                canvas.text(x, y, text, "b s" if text == group else "s m")
            y += 10
        top = y
        told = [(rule["alert"], "s monitor" if rule["labels"]["severity"] == "page" else "s") for rule in row.alerts]  # fmt: skip
        if row.told:
            told += [(line, "s m") for line in wrapped(row.told, _COLUMNS[2][1], "s m")]
        elif row.alerts:
            first = row.alerts[0]
            told.append((f"{first['labels']['severity']}, in about {told_after(first)} s", "s m"))
        cells = [
            [(line, "s") for line in wrapped(row.fails, _COLUMNS[0][1], "s")]
            + ([(f"in {', '.join(row.topologies)}", "s m")] if row.topologies else []),
            [(line, "s") for line in wrapped(row.feel, _COLUMNS[1][1], "s")],
            told,
            [(line, "s") for line in wrapped(row.lasts, _COLUMNS[3][1], "s")]
            + [(SOURCES[row.by], "s m")],
        ]
        height = 10 + 15 * max(map(len, cells))
        for index, ((x, width), cell) in enumerate(zip(_COLUMNS, cells, strict=True)):
            colour = ("box", "box" if re.match(r"Nothing(\.|;| while)", row.feel) else "box public",
                      "box monitor" if row.wakes else "box", "box")[index]  # fmt: skip
            canvas.box(x - 8, top, width + 12, height, colour, f"{row.fails} {index}")
            for number, (text, style) in enumerate(cell):
                canvas.text(x, top + 16 + 15 * number, text, style)
            if index:
                canvas.arrow((x - 20, top + height / 2), (x - 8, top + height / 2))
        y = top + height + 7
    y += 14
    notes = (
        "Red: users feel it. Violet: it wakes somebody. What waits for working hours is in docs/reference/failures.md too,"
        " with each figure's source.",
        "In the cloud nothing was measured yet: T22 and T26 to T30 do that.",
    )
    return finished(canvas, notes, y)
