"""What the code says: topologies, what each machine lets in, settings, commands, alerts, tests.

Machines are asked through real Salt on a copy of the tree, so that a diagram shows what a machine
would do and not what somebody once typed.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from control import salt_copy

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# The order in which a request meets them; the monitor looks at all of them.
ROLES: tuple[str, ...] = tuple(
    yaml.safe_load((ROOT / "pillar/topology.schema.yaml").read_text(encoding="utf-8"))["$defs"][
        "role"
    ]["enum"]
)
ANYBODY = "everybody"
# Formulas whose settings the diagrams quote.
QUOTED = ("haproxy", "counter", "redis")
# Settings without which a formula measures nothing.
OFF_BY_DEFAULT = {
    "filebeat": {"output": {"kind": "logstash", "hosts": ["logs.example:5044"]}},
    "apps": {"notes": {"hosts": ["notes.example"]}},
}


@dataclass(frozen=True)
class Opening:
    """One line of a firewall.yaml.j2. ``source``: ``everybody``, a role's name or a network; ``port``: 0
    for a protocol that has none."""

    formula: str
    port: int
    protocol: str
    source: str


@dataclass(frozen=True)
class Machine:
    """
    One machine. ``openings`` are those that somebody can use: a role nobody else has is none.
    ``metrics`` and ``logs``: what each formula's metrics.yaml.j2 and logs.yaml.j2 say there.
    """

    name: str
    address: str
    roles: tuple[str, ...]
    formulas: tuple[str, ...]
    openings: tuple[Opening, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, Any] = field(default_factory=dict)

    @property
    def tier(self) -> str:
        return next(role for role in ROLES if role in self.roles)


@dataclass(frozen=True)
class Topology:
    """A topology as its machines see it."""

    name: str
    network: str
    domain: str
    machines: tuple[Machine, ...]

    def tiers(self) -> dict[str, list[Machine]]:
        """Machines by the first of their roles, in the order of a request."""
        found = {role: [one for one in self.machines if one.tier == role] for role in ROLES}
        return {role: members for role, members in found.items() if members}

    def settings(self, formula: str) -> dict[str, Any]:
        """Settings of ``formula`` on the first machine that has it; empty if none has."""
        for one in self.machines:
            if formula in one.settings:
                return dict(one.settings[formula])
        return {}


def _source(given: Any) -> str:
    if given == "any":
        return ANYBODY
    return str(given.get("role") or given.get("network"))


def _openings(
    own: str, said: dict[str, Any], machines: dict[str, dict[str, Any]]
) -> Iterator[Opening]:
    for formula, listed in said.items():
        for one in listed or []:
            source = _source(one["from"])
            if source in ROLES and not any(
                source in other["roles"] for name, other in machines.items() if name != own
            ):
                continue
            yield Opening(formula, one.get("port", 0), one["protocol"], source)


def _ask(folder: Path, topology: str, name: str) -> dict[str, Any]:
    """
    What machine ``name`` says of itself: the formulas of its roles, what each lets in (firewall.yaml.j2 as it
    was written, sources by role), measures (metrics.yaml.j2) and calls its own in the journal (logs.yaml.j2),
    and the settings of those that are quoted.
    """
    # The controller writes it; here the release does not matter.
    machine = {"topology": topology, "name": name, "release": "0.0.0"}
    config = salt_copy.copy_tree(folder, machine)
    questions: list[list[Any]] = [
        ["formula.applied", [], {}],
        ["formula.collect", ["firewall.yaml.j2"], {}],
        ["formula.collect", ["logs.yaml.j2"], {}],
        *(["formula.settings", [formula], {}] for formula in QUOTED),
        # What measures only where the pillar turns it on.
        ["lay over pillar", [OFF_BY_DEFAULT], {}],
        ["formula.collect", ["metrics.yaml.j2"], {}],
    ]
    ((applied, openings, logs, *settings, _, metrics),) = salt_copy.ask([config], questions)
    quoted = {
        formula: own for formula, own in zip(QUOTED, settings, strict=True) if formula in applied
    }
    return {
        "applied": applied,
        "openings": openings,
        "logs": logs,
        "settings": quoted,
        "metrics": metrics,
    }


@functools.cache
def load_topology(name: str) -> Topology:
    """
    Topology ``name`` with what each of its machines applies and lets in.

    Raises OperationError, with Salt's own words, when a machine does not render.
    """
    path = ROOT / "pillar" / "topologies" / f"{name}.yaml"
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    machines: dict[str, dict[str, Any]] = data["machines"]
    with (
        tempfile.TemporaryDirectory(prefix="docs-") as trees,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 2) as pool,
    ):
        # Machines of the same roles say the same.
        first = {tuple(given["roles"]): one for one, given in reversed(machines.items())}
        asked = {
            roles: pool.submit(_ask, Path(trees) / one, name, one) for roles, one in first.items()
        }
        answers = {one: asked[tuple(machines[one]["roles"])].result() for one in machines}
    return Topology(
        name=data["name"],
        network=data["network"],
        domain=data["domain"],
        machines=tuple(
            Machine(
                name=one,
                address=given["address"],
                roles=tuple(given["roles"]),
                formulas=tuple(answers[one]["applied"]),
                openings=tuple(_openings(one, answers[one]["openings"], machines)),
                settings=answers[one]["settings"],
                metrics=answers[one]["metrics"],
                logs=answers[one]["logs"],
            )
            for one, given in machines.items()
        ),
    )


def formulas() -> list[Path]:
    """Folders of the formulas, by name."""
    return sorted(path.parent for path in (ROOT / "salt").glob("*/defaults.yaml"))


def commands() -> list[tuple[str, str]]:
    """`(target, help line)` of the Makefile's documented targets, in its order."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return re.findall(r"(?m)^([a-z-]+):.*## (.*)$", text)


def to_come() -> list[str]:
    """Targets that say of themselves that they are still to come."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.search(r"(?m)^TO_COME := (.*)$", text)
    return found.group(1).split() if found else []


def test_names() -> set[str]:
    """Every test function there is."""
    folders = ("tests", "webapp", "cloud", "bench")
    return {
        name
        for folder in folders
        for path in sorted((ROOT / folder).rglob("test_*.py"))
        for name in re.findall(r"(?m)^\s*def (test_\w+)", path.read_text(encoding="utf-8"))
    }


def decisions() -> list[tuple[Path, str]]:
    """`(file, title)` of every decision, by number."""
    found = []
    for path in sorted((DOCS / "decisions").glob("[0-9]*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        found.append((path, re.sub(r"^\d+\.\s*", "", title)))
    return found


def decision_status(path: Path) -> str:
    """What a decision's `**Status.**` says: since when it holds, or what replaced it, and when to look at it again."""
    found = re.search(r"(?ms)^\*\*Status\.\*\* (.*?)\n\n", path.read_text(encoding="utf-8"))
    return " ".join(found.group(1).split()) if found else ""


def alerts() -> list[dict[str, Any]]:
    """Every alert of every formula: `{formula, alert, expr, for, severity, summary, …}`."""
    found = []
    for path in sorted((ROOT / "salt").glob("*/alerts.yaml")):
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        for group in data.get("groups", []):
            for rule in group.get("rules", []):
                if "alert" in rule:
                    found.append({"formula": path.parent.name, **rule})
    return found
