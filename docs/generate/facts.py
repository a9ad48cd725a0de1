"""What the code says: topologies, what each machine lets in, settings, commands, alerts, tests.

Machines are asked through real Salt with a pillar of their own, so that a diagram shows what a machine
would do and not what somebody once typed.
"""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from control import salt_copy
from control import topology as topologies
from control.application import NAME
from control.by_path import load_module, load_yaml
from control.cloud import account, addresses, balancers, plan

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# The order in which a request meets them; the monitor looks at all of them.
ROLES: tuple[str, ...] = tuple(load_yaml("pillar/topology.schema.yaml")["$defs"]["role"]["enum"])
ANYBODY = "everybody"
BALANCER = "load balancer"
# Formulas whose settings the diagrams quote.
QUOTED = ("haproxy", "counter", "redis")
# Settings without which a formula measures nothing.
OFF_BY_DEFAULT = {
    "filebeat": {"output": {"kind": "logstash", "hosts": ["logs.example:5044"]}},
    "apps": {"notes": {"hosts": ["notes.example"]}},
}


@dataclass(frozen=True)
class Opening:
    """One line of a firewall.yaml.j2. ``source``: ``everybody``, ``load balancer``, a role's name or a network;
    ``port``: 0 for a protocol that has none."""

    formula: str
    port: int
    protocol: str
    source: str


@dataclass(frozen=True)
class Machine:
    """
    One machine. ``openings`` are those that somebody can use: a role nobody else has is none; ``services``:
    formulas of which something runs there (`make status` asks it). ``metrics`` and ``logs``: what each formula's metrics.yaml.j2 and logs.yaml.j2 say there.
    """

    name: str
    address: str
    roles: tuple[str, ...]
    formulas: tuple[str, ...]
    openings: tuple[Opening, ...]
    services: tuple[str, ...] = ()
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
    if given in ("any", "balancer"):
        return ANYBODY if given == "any" else BALANCER
    if isinstance(given, str):
        return given
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


def _ask(topology: str, names: Sequence[str], data: dict[str, Any]) -> list[dict[str, Any]]:
    """
    What machines of the topology whose file has ``data`` say of themselves: the formulas of their roles, what each lets in (firewall.yaml.j2 as it
    was written, sources by role), measures (metrics.yaml.j2) and calls its own in the journal (logs.yaml.j2),
    and the settings of those that are quoted.
    """
    questions: list[list[Any]] = [
        ["formula.applied", [], {}],
        ["formula.collect", ["firewall.yaml.j2"], {}],
        ["formula.collect", ["logs.yaml.j2"], {}],
        ["formula.collect", ["status.yaml.j2"], {}],
        *(["formula.settings", [formula], {}] for formula in QUOTED),
        # What measures only where the pillar turns it on.
        ["lay over pillar", [OFF_BY_DEFAULT], {}],
        ["formula.collect", ["metrics.yaml.j2"], {}],
    ]
    configs: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="docs-") as trees:
        for name in names:
            # The controller writes it; here the release does not matter.
            identity = {"topology": topology, "name": name, "release": "0.0.0"}
            configs.append(salt_copy.prepare(Path(trees) / name, identity))
            path = Path(trees, name, "pillar", "topologies", f"{topology}.yaml")
            path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        answers = salt_copy.ask(configs, questions)
    return [_as_facts(*answer) for answer in answers]


def _as_facts(
    applied: list[str], openings: Any, logs: Any, status: dict[str, Any], *others: Any
) -> dict[str, Any]:
    """Answers to the questions of :func:`_ask`, by their names."""
    *settings, _, metrics = others
    quoted = {
        formula: own for formula, own in zip(QUOTED, settings, strict=True) if formula in applied
    }
    return {
        "applied": applied,
        "openings": openings,
        "logs": logs,
        "services": [formula for formula in applied if status.get(formula)],
        "settings": quoted,
        "metrics": metrics,
    }


@functools.cache
def load_topology(name: str, in_cloud: bool = False) -> Topology:
    """
    Topology ``name`` with what each of its machines applies and lets in; ``in_cloud``: as `make cloud-up` gives it to
    them, whose firewalls there are made of the same answers.

    Raises OperationError, with Salt's own words, when a machine does not render.
    """
    path = ROOT / "pillar" / "topologies" / f"{name}.yaml"
    data = load_yaml(path)
    if in_cloud:
        data = addresses.read_for_cloud(topologies.load(name))
    machines: dict[str, dict[str, Any]] = data["machines"]
    # Machines of the same roles say the same.
    first = {tuple(given["roles"]): one for one, given in reversed(machines.items())}
    asked = dict(zip(first, _ask(name, list(first.values()), data), strict=True))
    answers = {one: asked[tuple(given["roles"])] for one, given in machines.items()}
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
                services=tuple(answers[one]["services"]),
                settings=answers[one]["settings"],
                metrics=answers[one]["metrics"],
                logs=answers[one]["logs"],
            )
            for one, given in machines.items()
        ),
    )


@dataclass(frozen=True)
class Cloud:
    """
    What `make cloud-up` makes of a topology on DigitalOcean. ``sizes`` and ``backups`` (`daily`, `weekly`) of
    machines; ``balancer``: its options, None where there is one edge; ``price``: US dollars a month.
    """

    region: str
    network: str
    sizes: dict[str, str]
    backups: dict[str, str]
    firewalls: dict[str, str]
    balancer: dict[str, Any] | None
    price: float


def size_prices() -> dict[str, float]:
    """US dollars a month of a droplet, by size: what ``/v2/sizes`` lists, as the stand-in of the API has it."""
    path = ROOT / "cloud/saltext-digitalocean/tests/support/standin_digitalocean.py"
    found = re.findall(
        r'(?m)^    "([\w-]+)": \((?:[\d.]+, ){4}([\d.]+), ', path.read_text(encoding="utf-8")
    )
    return {size: float(price) for size, price in found}


def load_cloud(name: str) -> Cloud:
    """Topology ``name`` on DigitalOcean, of ``cloud/cloud.*.d`` and the prices that the driver knows."""
    topology = topologies.load(name)
    prices = load_module(
        "cloud/saltext-digitalocean/src/saltext/digitalocean/utils/digitalocean/prices.py"
    )
    profiles, provider = account.read_settings("profiles"), account.provider_settings()
    listed, price = size_prices(), 0.0
    sizes: dict[str, str] = {}
    backups: dict[str, str] = {}
    for machine in topology.machines.values():
        profile = {**provider, **profiles[plan.profile_name(topology, machine)]}
        sizes[machine.name] = profile["size"]
        if profile.get("backups"):
            backups[machine.name] = (profile.get("backup_policy") or {}).get("plan", "daily")
        price += listed[profile["size"]] * (1 + prices.BACKUPS.get(backups.get(machine.name), 0))
    balancer = None
    if balancers.is_wanted(topology):
        balancer = account.read_settings("balancers")["edge"]
        price += balancer["size_unit"] * prices.LOAD_BALANCER_NODE
    return Cloud(
        region=provider["location"],
        network=account.network_name(topology),
        sizes=sizes,
        backups=backups,
        firewalls={
            one.name: f"{NAME}-{name}-{account.join_roles(one)}"
            for one in topology.machines.values()
        },
        balancer=balancer,
        price=price,
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


@functools.cache
def test_names() -> frozenset[str]:
    """Every test function there is."""
    folders = ("tests", "webapp", "cloud", "bench")
    return frozenset(
        name
        for folder in folders
        for path in (ROOT / folder).rglob("test_*.py")
        for name in re.findall(r"(?m)^\s*def (test_\w+)", path.read_text(encoding="utf-8"))
    )


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
        data = load_yaml(path) or {}
        for group in data.get("groups", []):
            for rule in group.get("rules", []):
                if "alert" in rule:
                    found.append({"formula": path.parent.name, **rule})
    return found
