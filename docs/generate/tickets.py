"""Tickets: one Markdown file each, with what a planner needs in front; order, chart, CSV from them.

The front matter of `docs/tickets/NN-name.md`:

    id: T07                 # T and the file's number
    title: …                # imperative
    milestone: 2 Machines   # number and name
    system: app             # what of the diagrams it builds; several: [collectd, prometheus]
    owner: operator         # the role that does it, of OWNERS
    hours: 1.5              # of one person's work, from reading the ticket to its last line
    basis: counted, …       # what the hours come from: `measured`, `counted` or `judged`, then how
    waits: 2 days, …        # what nobody works on meanwhile, and for what; `nothing`
    depends: [T03, T05]

A ticket of milestone ON_DEMAND is on no path: it is done when its time has come, or never.

and the headings of `PARTS`, in that order. Steps and the acceptance test each have a command, and the
test says what has to come of it.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path

from control.by_path import parse_yaml

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
KEYS = {"id", "title", "milestone", "system", "owner", "hours", "basis", "waits", "depends"}
# Who does it. One person may have several of these roles; a role never has nobody.
OWNERS = {
    "operator": "applies, deploys and holds the controller",
    "developer": "writes the application and the pipeline",
    "on-call": "is woken, and mends by the runbooks",
    "security": "looks at it as an attacker does, and at what is kept about people",
    "finance": "pays, and says how much at most",
    "owner": "answers for the service: what is promised, when it moves, whether it ends",
}
# With it, users are on the new system: the critical path ends there.
USERS = "T23"
ON_DEMAND = "6 When it is time"
# Hours of a working day that go into tickets; the rest is mail, meetings and lunch. A day of waiting is one of these.
DAY = 6.0


@dataclass(frozen=True)
class Ticket:
    """One piece of work. ``hours`` are of one person, ``wait_days`` of nobody; ``depends`` are ids."""

    id: str
    title: str
    milestone: str
    systems: tuple[str, ...]
    owner: str
    hours: float
    basis: str
    wait_days: float
    wait_for: str
    depends: tuple[str, ...]
    body: str
    path: Path

    @property
    def span(self) -> float:
        """Working hours from its start until what depends on it may start."""
        return self.hours + self.wait_days * DAY

    @property
    def is_on_demand(self) -> bool:
        return self.milestone == ON_DEMAND

    @property
    def labels(self) -> tuple[str, ...]:
        """What a tracker files it under: what it builds, and whose it is."""
        return (*self.systems, f"owner: {self.owner}")


@dataclass(frozen=True)
class Slot:
    """
    When a ticket may run, in working hours from the beginning, with as many people as it takes. ``end``: with
    what it waits for. ``slack``: how much later it may end without making users, or what no user waits for, later.
    """

    start: float
    end: float
    slack: float
    is_for_users: bool = True

    @property
    def critical(self) -> bool:
        return self.is_for_users and self.slack < 1e-9


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
        data = parse_yaml(split.group(1))
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
        data |= _estimate(path.name, data.pop("owner"), data.pop("basis"), data.pop("waits"))
        found.append(Ticket(**data, body=split.group(2).strip(), path=path))
    known = {one.id for one in found}
    for one in found:
        for other in one.depends:
            if other not in known:
                raise ValueError(f"{one.path.name}: depends on {other}, which there is not")
    ordered(found)
    return found


def _estimate(name: str, owner: object, basis: object, waits: object) -> dict[str, object]:
    """Whose work it is, what its hours come from and what it waits for; ValueError with the file's name."""
    if owner not in OWNERS:
        raise ValueError(f"{name}: owner: {owner}: is none of {', '.join(OWNERS)}")
    if not re.match(r"(measured|counted|judged), .{10}", str(basis)):
        raise ValueError(f"{name}: basis: say measured, counted or judged, and how")
    waiting = re.fullmatch(r"(\d+(?:\.\d+)?) days?, (.+)", str(waits))
    if waits != "nothing" and not waiting:
        raise ValueError(f"{name}: waits: {waits}: is `nothing` or `N days, for what`")
    days, reason = (float(waiting[1]), waiting[2]) if waiting else (0.0, "")
    return {"owner": owner, "basis": basis, "wait_days": days, "wait_for": reason}


def _taken_apart(text: str) -> tuple[str, list[str]]:
    """The words of ``text``, and what stands in its fenced blocks."""
    fence = re.compile(r"(?ms)^( *)```[^\n]*\n(.*?)^\1```$")
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
    """
    Earliest start and end of each ticket that is on a path, and how long it may be late (critical path
    method): without users being on the new system later, or, where no user waits for it, the last of all.
    """
    order = [one for one in ordered(tickets) if not one.is_on_demand]
    early: dict[str, tuple[float, float]] = {}
    for one in order:
        start = max((early[other][1] for other in one.depends), default=0.0)
        early[one.id] = (start, start + one.span)
    whole = max((end for _, end in early.values()), default=0.0)
    for_users = _before(order, USERS)
    late: dict[str, float] = {}
    for one in reversed(order):
        after = [
            late[other.id] - other.span
            for other in order
            if one.id in other.depends and (other.id in for_users or one.id not in for_users)
        ]
        late[one.id] = min(after, default=early[one.id][1] if one.id == USERS else whole)
    return {
        name: Slot(start, end, late[name] - end, name in for_users)
        for name, (start, end) in early.items()
    }


def _before(tickets: list[Ticket], goal: str) -> set[str]:
    """``goal`` and all that it needs; everything where there is no such ticket."""
    by_id = {one.id: one for one in tickets}
    needed, left = set(), [goal] if goal in by_id else list(by_id)
    while left:
        name = left.pop()
        if name not in needed:
            needed.add(name)
            left += by_id[name].depends
    return needed


def critical_path(tickets: list[Ticket]) -> list[Ticket]:
    """The chain of tickets that decides when users are on the new system."""
    slots = schedule(tickets)
    by_id = {one.id: one for one in tickets}
    ends = [by_id[name] for name, slot in slots.items() if slot.critical]
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


def _days(hours: float) -> str:
    """Working hours as working days, rounded up to half a one."""
    return f"{math.ceil(2 * hours / DAY) / 2:g} days"


def _late(slot: Slot) -> str:
    if slot.critical:
        return "**critical**"
    return f"{slot.slack / DAY:.1f} days" + ("" if slot.is_for_users else ", no user waits")


def summary() -> str:
    """How much work it is, how long until users are there, and what of that is waiting."""
    tickets = load()
    slots = schedule(tickets)
    path = critical_path(tickets)
    work, waiting = sum(one.hours for one in path), sum(one.wait_days for one in path)
    planned = [one for one in tickets if not one.is_on_demand]
    return (
        f"{len(tickets)} tickets. The {len(planned)} that lead to users and just behind them are"
        f" {_hours(sum(one.hours for one in planned))} of work:"
        f" {_days(sum(one.hours for one in planned))} of {DAY:g} such hours for one person."
        f" With enough people users are on it after {_days(slots[path[-1].id].end)}, as long as the"
        f" critical path: {_hours(work)} of work and {waiting:g} days in which nobody works and"
        f" something has to run out or be delivered."
    )


def index_page() -> str:
    """All tickets in a table, the critical path, how to import them."""
    tickets = load()
    slots = schedule(tickets)
    lines = [
        "# Tickets",
        "",
        "Everything that has to be done to run the production topology in the cloud, each ticket"
        " with the need behind it, steps as commands, a test with its expected output, its risk and"
        " the way back. Somebody who has never seen the project can take the next one.",
        "",
        summary() + " What comes first and why is said in [The work that is left](../left.md).",
        "",
        "The critical path, to users: "
        + " → ".join(f"[{one.id}]({one.path.name})" for one in critical_path(tickets))
        + ".",
        "",
        "![All tickets on a time line, waiting apart from work; those on the critical path are"
        " marked](../diagrams/tickets.svg)",
        "",
        "Whose they are: " + "; ".join(f"**{name}** {does}" for name, does in OWNERS.items()) + ".",
        "Hours are one person's, from reading the ticket to its last line; each ticket says what they come"
        " from: `measured` (it was done in the lab), `counted` (its commands and how long they run, reading"
        " and noting added) or `judged` (nobody here has done it: double it when it matters). What is only"
        " waited for stands apart: a day of waiting is a working day.",
        "",
        "Every command expects the checkout's root as its folder, and the controller as its host unless the ticket"
        " says otherwise. Words in CAPITALS are yours to fill in. `make` itself ends with 2 whenever a command"
        " of it failed. What runs on no stand-in is listed, with who must do it, in"
        " [what was rehearsed](rehearsal.md).",
        "",
        "## Into a tracker",
        "",
        "Labels and milestones are made, dependencies linked, and a second run changes nothing that is as it should be:",
        "",
        "```",
        "GITLAB_TOKEN=$(pass show counter/gitlab-api) .venv/bin/python -m docs.generate.import_tickets gitlab https://GITLAB/api/v4/projects/ID",
        ".venv/bin/python -m docs.generate.import_tickets github OWNER/REPOSITORY     # by gh, which has to be logged in",
        "```",
        "",
        "`--dry-run` only says what it would do. A ticket that is in the tracker already is known by its title, `T01 …`; its"
        " description, labels and milestone follow these files, its state, assignee and comments are the"
        " tracker's. GitLab's free tier knows no blocking: there the links are `relates to`, and the words below"
        " *Depends on* say which way. Without a token: **Issues → Import CSV** with [tickets.csv](tickets.csv), once;"
        " milestones and labels have to be there first.",
        "",
    ]  # fmt: skip
    for milestone in sorted({one.milestone for one in tickets}):
        lines += [
            f"## {milestone}",
            "",
            "| ticket | builds | owner | work | waits | depends on | may be late by |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for one in tickets:
            if one.milestone == milestone:
                late = "on no path" if one.is_on_demand else _late(slots[one.id])
                waits = f"{one.wait_days:g} d" if one.wait_days else ""
                lines.append(
                    f"| [{one.id} {one.title}]({one.path.name}) | {', '.join(one.systems)} | {one.owner} |"
                    f" {_hours(one.hours)} | {waits} | {', '.join(one.depends) or 'nothing'} | {late} |"
                )
        lines.append("")
    pages = [*(one.path.stem for one in tickets), "rehearsal"]
    lines += ["```{toctree}", ":hidden:", "", *pages, "```", ""]
    return "\n".join(lines)


def _named(link: re.Match[str]) -> str:
    path = (facts.DOCS / "tickets" / link.group(2).split("#")[0]).resolve()
    return f"{link.group(1)} (`{path.relative_to(facts.ROOT)}`)"


def description(ticket: Ticket) -> str:
    """What a tracker's issue says: the ticket without its heading, whose links lead somewhere from there too."""
    body = re.sub(r"(?m)^# .*\n+", "", ticket.body, count=1)
    # A link relative to the page leads nowhere from an issue: the file's name does.
    body = re.sub(r"\[([^\]]*)\]\((?!https?:)([^)]*)\)", _named, body)
    waits = f"{ticket.wait_days:g} days, {ticket.wait_for}" if ticket.wait_days else "nothing"
    return (
        f"{body}\n\n## Estimate\n\n{_hours(ticket.hours)} of one {ticket.owner}'s work: {ticket.basis}."
        f" Waits for {waits}.\n\n## Depends on\n\n{', '.join(ticket.depends) or 'nothing'}"
    )


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
        # In quotes: a name may have a space.
        labels = " ".join(f'~"{label}"' for label in one.labels)
        minutes = round(one.hours * 60)
        estimate = f"{minutes // 60}h" + (f" {minutes % 60}m" if minutes % 60 else "")
        text = f"{description(one)}\n\n/label {labels}\n/estimate {estimate}"
        writer.writerow([f"{one.id} {one.title}", text, "", one.milestone])
    return out.getvalue()


def chart() -> str:
    """The tickets on a time line, the critical path marked."""
    tickets = load()
    slots = schedule(tickets)
    picture = Canvas(
        760,
        "Tickets on a time line",
        "Earliest start and end of each ticket with as many people as it takes, waiting apart from work; the"
        " marked ones are the critical path to users: "
        + ", ".join(one.id for one in critical_path(tickets))
        + ".",
    )
    picture.text(20, 30, "Order of the work", "h")
    picture.text(
        20, 52, "working days from the beginning, each ticket as early as it can be", "s m"
    )
    picture.box(500, 42, 18, 11, "bar critical", "key")
    picture.text(524, 52, "critical path", "s m")
    picture.box(640, 42, 18, 11, "wait", "key of waiting")
    picture.text(664, 52, "waiting", "s m")
    left, y = 384.0, 84.0
    days = max(1, math.ceil(max((slot.end for slot in slots.values()), default=0.0) / DAY))
    scale = (740 - left) / (days * DAY)
    for day in range(0, days + 1, 1 if days <= 12 else 2):
        x = left + day * DAY * scale
        picture.text(x, y, str(day), "s m", "middle")
        picture.line(x, y + 6, x, y + 12 + 24 * len(slots), "rule")
    y += 16
    planned = [one for one in tickets if one.id in slots]
    for one in sorted(planned, key=lambda each: (slots[each.id].start, each.id)):
        slot = slots[one.id]
        named = "b s" if slot.critical else "s"
        picture.text(20, y + 12, one.id, named)
        picture.text(54, y + 12, one.title, "s")
        kind = "bar critical" if slot.critical else "bar"
        x = left + slot.start * scale
        picture.box(x, y + 1, one.hours * scale, 14, kind, one.id)
        if one.wait_days:
            x += one.hours * scale
            picture.box(x, y + 1, one.wait_days * DAY * scale, 14, "wait", f"{one.id} waits")
        y += 24
    found = picture.collisions()
    if found:
        raise RuntimeError("ticket chart: " + "; ".join(found))
    return str(picture)
