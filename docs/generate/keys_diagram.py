"""Who holds which key: of secrets.yaml, the settings that name a secret, and what the controller exports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from control import controller_state
from control import topology as topologies
from control.by_path import load_yaml
from control.credentials import shared_secrets

from . import facts
from .diagrams import WIDTH, finished
from .svg import Canvas, width_of

CONTROLLER, GITLAB, SAFE, PEOPLE = "controller", "GitLab", "safe", "people"
# What each is for. A secret without a word here is refused, so that no new one is forgotten.
FOR = {
    "backup-identity": "opens the backups",
    "redis-counter": "application → Redis",
    "redis-replica": "replica → master",
    "redis-sentinel": "Sentinel → Redis",
    "sentinel-peer": "Sentinel ↔ Sentinel",
    "redis-admin": "redis-admin, by root",
    "redis-backup": "backup → Redis",
    "pki": "who a machine is to others",
    "pki-ca": "signs machines",
    "site": "the site's certificate",
    "backup-s3-id": "the bucket's key",
    "backup-s3-key": "the bucket's key",
}


class Key(NamedTuple):
    """``holders`` have the key itself, ``checkers`` its public half or a hash, by which they know it."""

    name: str
    purpose: str
    holders: frozenset[str]
    checkers: frozenset[str] = frozenset()


def given_settings() -> Iterator[tuple[str, str]]:
    """`(formula, setting)` of each setting that names a secret which somebody has to give."""

    def walk(schema: dict[str, Any], root: dict[str, Any], path: str) -> Iterator[str]:
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].rsplit("/", 1)[-1]] | schema
        if schema.get("format") in ("secret", "secret key"):
            yield path
        for name, inner in schema.get("properties", {}).items():
            yield from walk(inner, root, f"{path}:{name}")
        for word in ("additionalProperties", "items"):
            if isinstance(schema.get(word), dict):
                # Of an application: `apps:…:secrets`.
                below = f"{path}:…" if ":" not in path else path
                yield from walk(schema[word], root, below)

    for folder in facts.formulas():
        root = load_yaml(folder / "schema.yaml")
        for path in walk(root, root, folder.name):
            yield folder.name, path


def _declared() -> dict[str, tuple[str, dict[str, Any]]]:
    """`{secret: (formula, what its secrets.yaml says)}`."""
    return {
        name: (path.parent.name, entry or {})
        for path in sorted((facts.ROOT / "salt").glob("*/secrets.yaml"))
        for name, entry in load_yaml(path).items()
    }


def keys(name: str) -> dict[str, list[Key]]:
    """All keys of topology ``name``, by kind."""
    topology = topologies.load(name)
    roles = topologies.formula_roles()
    everywhere = frozenset(facts.ROLES)
    declared, shared = _declared(), shared_secrets.read_declared(topology)
    if unknown := set(declared) ^ set(FOR):
        raise RuntimeError(f"keys_diagram.py: FOR: {', '.join(sorted(unknown))}")
    pipeline = (facts.ROOT / ".gitlab-ci.yml").read_text(encoding="utf-8")
    # The pipeline is given what the controller exports: all of its secrets and the keys of ssh.
    exported = "secrets" in controller_state.PARTS and "$DEPLOY_STATE" in pipeline
    known = frozenset({CONTROLLER, GITLAB} if exported else {CONTROLLER})
    signs = frozenset({CONTROLLER, GITLAB} if "RELEASE_KEY" in pipeline else {CONTROLLER})

    def where(formula: str) -> frozenset[str]:
        role = roles[formula]
        return everywhere if role is None else frozenset({role})

    several = len(topology.machines) > 1
    common = [Key("the authority's key", FOR["pki-ca"], known, everywhere)] if several else []
    common.append(Key("pki", FOR["pki"], everywhere | (known if several else set()), frozenset()))
    for secret, entry in shared.items():
        if any(entry.is_for(topology, machine) for machine in topology.machines.values()):
            common.append(
                Key(secret, FOR.get(secret, "an application's"), known | set(entry.roles))
            )
    edges = len(topology.with_role("edge")) > 1
    common.append(Key("site", FOR["site"], frozenset({"edge"}) | (known if edges else set())))
    own = [
        Key(secret, FOR[secret], where(formula))
        for secret, (formula, entry) in declared.items()
        if not entry
    ]
    given = [
        Key(secret, FOR[secret], known | where(formula))
        for secret, (formula, entry) in declared.items()
        if entry.get("kind") == "given"
    ]
    given += [
        Key(path, "", known | where(formula))
        for formula, path in dict.fromkeys(given_settings())
        # The counter's are made.
        if path != "counter:credentials"
    ]
    people = [
        Key("the controller's ssh key", "root, everywhere", known, everywhere),
        Key("an operator's ssh key", "sudo, base:users", frozenset({PEOPLE}), everywhere),
        Key("the release key", "signs releases", signs, frozenset({"app"})),
        Key("your age key", "opens backups, offline", frozenset({SAFE}), frozenset({"store"})),
        Key("the cloud's API token", "make cloud-…", frozenset({SAFE})),
        Key("GitLab's API token", "make releases, by hand", frozenset({SAFE})),
        Key("the sealed copy's passphrase", "opens all of it", frozenset({SAFE})),
        Key("second factors", "cloud, GitLab", frozenset({PEOPLE})),
    ]
    return {
        "shared by machines: the controller makes them": common,
        "one machine's own, made there": own,
        "given by a person, make secret, where the setting is set": given,
        "of people, and of the controller": people,
    }


def picture(name: str) -> str:
    """Rows: keys; columns: holders; a dot where the key is, a ring where its public half or a hash is."""
    groups = keys(name)
    columns = [CONTROLLER, GITLAB, *facts.ROLES, SAFE, PEOPLE]
    canvas = Canvas(
        WIDTH,
        f"Who holds which key, in topology {name}",
        "\n".join(
            f"{key.name}{f' ({key.purpose})' if key.purpose else ''}: held by"
            f" {', '.join(one for one in columns if one in key.holders)}"
            + (f"; known to {', '.join(one for one in columns if one in key.checkers)}" if key.checkers else "")
            for listed in groups.values()
            for key in listed
        ),
    )  # fmt: skip
    canvas.text(20, 30, f"Who holds which key: {name}", "h")
    canvas.dot(30, 50)
    canvas.text(42, 54, "holds it", "s m")
    canvas.ring(122, 50)
    canvas.text(134, 54, "knows its public half or a hash of it", "s m")
    canvas.text(32, 78, "safe: the team's password store, or paper", "s m")
    canvas.text(32, 96, "people: each operator has their own", "s m")
    first, y = 400.0, 84.0
    step = (WIDTH - first - 10) / len(columns)
    head = y + 16 * (len(columns) - 1)
    for index, column in enumerate(columns):
        x, at = first + step * (index + 0.5), y + 16 * index
        width = width_of(column, "s b")
        canvas.text(min(x, WIDTH - 12 - width / 2), at, column, "s b", "middle")
        canvas.line(x, at + 5, x, head + 8, "rule")
    y = head + 20
    for group, listed in groups.items():
        canvas.line(16, y - 8, WIDTH - 16, y - 8, "rule")
        canvas.text(20, y + 10, group, "s m")
        y += 26
        for key in listed:
            name_style = "c" if re.fullmatch(r"[a-z0-9:_…-]+", key.name) else "s"
            canvas.text(32, y + 4, key.name, name_style)
            if key.purpose:
                canvas.text(230, y + 4, key.purpose, "s m")
            for index, column in enumerate(columns):
                x = first + step * (index + 0.5)
                if column in key.holders:
                    canvas.dot(x, y)
                elif column in key.checkers:
                    canvas.ring(x, y)
            y += 21
        y += 8
    y += 10
    more = [name for name, (_, entry) in _declared().items() if entry.get("several")]
    notes = (
        "GitLab has what is in DEPLOY_STATE, all that the controller knows of the machines: a protected variable of each environment,"
        " for jobs of main alone. And RELEASE_KEY.",
        "A machine has nothing of another role's. A column of a role: each of its machines has its own, or the same where they share it."
        f" Several stores also share {', '.join(more)}; several edges the site's key.",
    )
    return finished(canvas, notes, y)
