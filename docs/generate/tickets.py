"""Tickets: one Markdown file each, with what a planner needs in front; order, chart, CSV from them.

The front matter of `docs/tickets/NN-name.md`:

    id: T07                 # T and the file's number
    title: …                # imperative
    milestone: 2 Machines   # number and name
    system: app             # what of the diagrams it builds; several: [collectd, prometheus]
    hours: 1.5              # of one person's work
    depends: [T03, T05]

and the headings of `PARTS`, in that order. Steps and the acceptance test each have a command, and the
test says what has to come of it.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from . import facts
from .svg import Canvas

PARTS = (
    "Why",
    "Who is affected",
    "Before you start",
    "Steps",
    "Acceptance test",
    "Risk and rollback",
    "Done when",
)
KEYS = {"id", "title", "milestone", "system", "hours", "depends"}


@dataclass(frozen=True)
class Ticket:
    """One piece of work. ``hours`` are of one person; ``depends`` are ids."""

    id: str
    title: str
    milestone: str
    systems: tuple[str, ...]
    hours: float
    depends: tuple[str, ...]
    body: str
    path: Path


@dataclass(frozen=True)
class Slot:
    """When a ticket may run, in hours from the beginning, with as many people as it takes."""

    start: float
    end: float
    slack: float

    @property
    def critical(self) -> bool:
        return self.slack < 1e-9


def load(folder: Path = facts.DOCS / "tickets") -> list[Ticket]:
    """
    Every ticket, by id.

    Raises ValueError, naming the file, for a wrong key, a missing part, an unknown dependency or a
    circle of dependencies.
    """
    found = []
    for path in sorted(folder.glob("[0-9]*.md")):
        text = path.read_text(encoding="utf-8")
        split = re.match(r"(?s)---\n(.*?)\n---\n(.*)", text)
        if not split:
            raise ValueError(f"{path.name}: no front matter")
        data = yaml.safe_load(split.group(1))
        if set(data) != KEYS:
            raise ValueError(f"{path.name}: keys {sorted(set(data) ^ KEYS)}: needs {sorted(KEYS)}")
        if data["id"] != f"T{path.name[:2]}":
            raise ValueError(f"{path.name}: id {data['id']}: is its file's number")
        headings = tuple(re.findall(r"(?m)^## (.*)$", split.group(2)))
        if headings != PARTS:
            raise ValueError(f"{path.name}: headings are {headings}, ought to be {PARTS}")
        for title in ("Steps", "Acceptance test"):
            part = re.search(rf"(?ms)^## {title}\n(.*?)(?=^## |\Z)", split.group(2))
            words, blocks = _taken_apart(part.group(1) if part else "")
            if not blocks:
                raise ValueError(f"{path.name}: {title}: has no command block")
            if title == "Acceptance test" and not words:
                raise ValueError(f"{path.name}: {title}: does not say what has to come of it")
        data["depends"] = tuple(data["depends"])
        system = data.pop("system")
        data["systems"] = (system,) if isinstance(system, str) else tuple(system)
        found.append(Ticket(**data, body=split.group(2).strip(), path=path))
    known = {one.id for one in found}
    for one in found:
        for other in one.depends:
            if other not in known:
                raise ValueError(f"{one.path.name}: depends on {other}, which there is not")
    ordered(found)
    return found


def _taken_apart(text: str) -> tuple[str, list[str]]:
    """The words of ``text``, and what stands in its fenced blocks."""
    fence = re.compile(r"(?ms)^( *)```\w*\n(.*?)^\1```$")
    return fence.sub("", text).strip(), [
        one[1].strip() for one in fence.findall(text) if one[1].strip()
    ]


def ordered(tickets: list[Ticket]) -> list[Ticket]:
    """``tickets`` so that each comes after what it depends on; ValueError for a circle."""
    left = {one.id: one for one in tickets}
    done: list[Ticket] = []
    while left:
        ready = [one for one in left.values() if not set(one.depends) & set(left)]
        if not ready:
            raise ValueError(f"tickets depend on each other in a circle: {', '.join(sorted(left))}")
        for one in ready:
            done.append(left.pop(one.id))
    return done


def schedule(tickets: list[Ticket]) -> dict[str, Slot]:
    """Earliest start and end of each ticket, and how long it may be late (critical path method)."""
    order = ordered(tickets)
    early: dict[str, tuple[float, float]] = {}
    for one in order:
        start = max((early[other][1] for other in one.depends), default=0.0)
        early[one.id] = (start, start + one.hours)
    whole = max((end for _, end in early.values()), default=0.0)
    late: dict[str, float] = {}
    for one in reversed(order):
        after = [late[other.id] - other.hours for other in order if one.id in other.depends]
        late[one.id] = min(after, default=whole)
    return {name: Slot(start, end, late[name] - end) for name, (start, end) in early.items()}


def critical_path(tickets: list[Ticket]) -> list[Ticket]:
    """The chain of tickets that decides how long all of it takes."""
    slots = schedule(tickets)
    by_id = {one.id: one for one in tickets}
    ends = [one for one in tickets if slots[one.id].critical]
    path = [max(ends, key=lambda one: slots[one.id].end)]
    while before := [
        by_id[name]
        for name in path[0].depends
        if slots[name].critical and slots[name].end == slots[path[0].id].start
    ]:
        path.insert(0, before[0])
    return path


def _hours(value: float) -> str:
    return f"{value:g} h"


def index_page() -> str:
    """All tickets in a table, the critical path, how to import them."""
    tickets = load()
    slots = schedule(tickets)
    path = critical_path(tickets)
    whole = max(slot.end for slot in slots.values())
    total = sum(one.hours for one in tickets)
    lines = [
        "# Tickets",
        "",
        "Everything that has to be done to run the production topology in the cloud, each ticket"
        " with the need behind it, steps as commands, a test with its expected output, its risk and"
        " the way back. Somebody who has never seen the project can take the next one.",
        "",
        f"{len(tickets)} tickets, {_hours(total)} of work; with enough people {_hours(whole)}, as"
        " long as the critical path: " + " → ".join(f"[{one.id}]({one.path.name})" for one in path)
        + ". What comes first and why is said in [The work that is left](../left.md).",
        "",
        "![All tickets on a time line; those on the critical path are marked](../diagrams/tickets.svg)",
        "",
        "Import them into GitLab: create the milestones"
        f" ({', '.join(f'`{one}`' for one in sorted({one.milestone for one in tickets}))}), then"
        " **Issues → Import CSV** with [tickets.csv](tickets.csv). Each description sets a label"
        " and the estimate by quick actions; a label has to exist first.",
        "",
    ]  # fmt: skip
    for milestone in sorted({one.milestone for one in tickets}):
        lines += [
            f"## {milestone}",
            "",
            "| ticket | builds | work | depends on | may be late by |",
            "| --- | --- | --- | --- | --- |",
        ]
        for one in tickets:
            if one.milestone == milestone:
                slot = slots[one.id]
                slack = "**critical**" if slot.critical else _hours(slot.slack)
                lines.append(
                    f"| [{one.id} {one.title}]({one.path.name}) | {', '.join(one.systems)} |"
                    f" {_hours(one.hours)} | {', '.join(one.depends) or 'nothing'} | {slack} |"
                )
        lines.append("")
    lines += ["```{toctree}", ":hidden:", "", *(one.path.stem for one in tickets), "```", ""]
    return "\n".join(lines)


def _named(link: re.Match[str]) -> str:
    path = (facts.DOCS / "tickets" / link.group(2).split("#")[0]).resolve()
    return f"{link.group(1)} (`{path.relative_to(facts.ROOT)}`)"


def csv_file() -> str:
    """
    All tickets as GitLab imports them: https://docs.gitlab.com/user/project/issues/csv_import/

    Columns `title,description,due_date,milestone`. The due date is empty: nobody has said when the
    work begins. Labels, estimate and dependencies stand in the description, as quick actions and in
    words (a quick action `/blocked_by` would need numbers that the import is yet to give).
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["title", "description", "due_date", "milestone"])
    for one in load():
        body = re.sub(r"(?m)^# .*\n+", "", one.body, count=1)
        # A link relative to the page leads nowhere from an issue: the file's name does.
        body = re.sub(r"\[([^\]]*)\]\((?!https?:)([^)]*)\)", _named, body)
        needs = ", ".join(one.depends) or "nothing"
        minutes = round(one.hours * 60)
        estimate = f"{minutes // 60}h" + (f" {minutes % 60}m" if minutes % 60 else "")
        # In quotes: a name may have a space.
        labels = " ".join(f'~"{system}"' for system in one.systems)
        description = f"{body}\n\n## Depends on\n\n{needs}\n\n/label {labels}\n/estimate {estimate}"
        writer.writerow([f"{one.id} {one.title}", description, "", one.milestone])
    return out.getvalue()


def chart() -> str:
    """The tickets on a time line, the critical path marked."""
    tickets = load()
    slots = schedule(tickets)
    whole = max(slot.end for slot in slots.values())
    picture = Canvas(
        760,
        "Tickets on a time line",
        "Earliest start and end of each ticket with as many people as it takes; the marked ones are"
        " the critical path: " + ", ".join(one.id for one in critical_path(tickets)) + ".",
    )
    picture.text(20, 30, "Order of the work", "h")
    picture.text(20, 52, "hours from the beginning, each ticket as early as it can be", "s m")
    picture.box(560, 42, 18, 11, "bar critical", "key")
    picture.text(584, 52, "critical path", "s m")
    left, scale, y = 384.0, (740 - 384) / whole, 84.0
    for hour in range(0, int(whole) + 1, 4):
        x = left + hour * scale
        picture.text(x, y, str(hour), "s m", "middle")
        picture.line(x, y + 6, x, y + 12 + 24 * len(tickets), "rule")
    y += 16
    for one in sorted(tickets, key=lambda each: (slots[each.id].start, each.id)):
        slot = slots[one.id]
        named = "b s" if slot.critical else "s"
        picture.text(20, y + 12, one.id, named)
        picture.text(54, y + 12, one.title, "s")
        kind = "bar critical" if slot.critical else "bar"
        picture.box(left + slot.start * scale, y + 1, one.hours * scale, 14, kind, one.id)
        y += 24
    found = picture.collisions()
    if found:
        raise RuntimeError("ticket chart: " + "; ".join(found))
    return str(picture)
