"""
Secrets that somebody gives, such as a certificate's key, a pager's token or a bucket's keys: `make
secret`. Kept beside those that machines share (control/credentials/shared_secrets.py), delivered in the pillar of those
machines alone that need them, and so to one that is made anew as well.

One file each, ``given.role.ROLE.NAME`` (``every`` for all machines) or ``given.host.MACHINE.NAME``. Who
needs one follows from the formulas whose settings name it. Needs no Salt.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import atomic_file, by_path, local_state, settings, topology
from ..errors import ControlError, UserError
from ..paths import ROOT
from ..topology import Machine, Topology
from . import shared_secrets

# Whom a secret is for that every machine needs.
EVERY = "role.every"
# Made and signed by the controller or the machine: never a text that somebody gives.
NOT_GIVEN = ("pki", "pki-ca", "site")


def _files(topology: Topology) -> Iterable[Path]:
    return sorted((local_state.folder(topology) / "secrets").glob("given.*.*.*"))


def list_kept(topology: Topology) -> dict[str, list[str]]:
    """``{name: whom it is for}``, the latter as the files' names have it."""
    recipients: dict[str, list[str]] = {}
    for path in _files(topology):
        _, kind, whom, name = path.name.split(".")
        recipients.setdefault(name, []).append(f"{kind}.{whom}")
    return recipients


def read_for(topology: Topology, machine: Machine) -> dict[str, str]:
    """The given secrets of one machine; one for the machine itself before one for its roles."""
    wanted = [EVERY, *(f"role.{role}" for role in machine.roles), f"host.{machine.name}"]
    values: dict[str, str] = {}
    for whom in wanted:
        for path in _files(topology):
            if path.name.startswith(f"given.{whom}."):
                values[path.name.rpartition(".")[2]] = path.read_text(encoding="utf-8")
    return values


def find_users(topology: Topology) -> dict[str, set[str]]:
    """``{secret: formulas that use it}``: declared in ``secrets.yaml``, or named by a setting whose
    schema says ``format: secret`` (salt/_modules/formula.py reads them the same way)."""
    # Costs a tenth of a second: only who gives a secret pays it.
    import jsonschema

    known: dict[str, set[str]] = {}
    said = settings.read(topology)
    for schema in sorted((ROOT / "salt").glob("*/schema.yaml")):
        formula = schema.parent.name

        class Names(jsonschema.FormatChecker):
            def check(self, instance: object, format: str, formula: str = formula) -> None:
                if format in ("secret", "secret key", "made secret") and isinstance(instance, str):
                    known.setdefault(instance, set()).add(formula)
                elif format == "application" and isinstance(instance, str):
                    known.setdefault(f"redis-{instance}", set()).update({formula, "redis"})

        def read(name: str, folder: Path = schema.parent) -> dict[str, Any]:
            path = folder / name
            return dict(by_path.load_yaml(path) or {}) if path.exists() else {}

        for name in read("secrets.yaml"):
            known.setdefault(name, set()).add(formula)
        effective = settings.merge(read("defaults.yaml"), said.get(formula))
        validator = jsonschema.Draft202012Validator(read("schema.yaml"), format_checker=Names())
        # What is wrong with a setting is for the machines to say.
        list(validator.iter_errors(effective))
    return known


def _roles(formulas: Iterable[str]) -> set[str]:
    """For whom these formulas are: ``role.ROLE`` or :data:`EVERY`."""
    brought = topology.formula_roles()
    return {
        f"role.{brought[formula]}" if brought[formula] else EVERY
        for formula in formulas
        if formula in brought
    }


def find_recipients(topology: Topology, name: str, host: str | None) -> list[str]:
    """Whom a given secret is to be kept for; UserError for one that nobody there uses."""
    try:
        known = find_users(topology)
    except ControlError as error:
        if host:
            return [f"host.{host}"]
        raise UserError(f"{error}; HOST=… says for which machine {name} is", 2) from error
    if name not in known:
        hint = by_path.hint(name, sorted(known))
        raise UserError(
            f"SECRET={name}: no setting of topology {topology.name} names such a secret; {hint} Name it"
            f" in pillar/settings/{topology.name}.sls first (docs/secrets.md)",
            2,
        )
    roles = _roles(known[name])
    using = [machine.name for machine in topology.machines.values() if is_for(machine, roles)]
    if host and host not in using:
        raise UserError(
            f"HOST={host}: nothing there uses {name}; it is for {', '.join(using) or 'no machine'}",
            2,
        )
    if not using:
        raise UserError(
            f"SECRET={name}: is for {', '.join(sorted(roles))}, which no machine has", 2
        )
    return [f"host.{host}"] if host else sorted(roles)


def is_for(machine: Machine, whom: Iterable[str]) -> bool:
    return bool(
        {EVERY, f"host.{machine.name}", *(f"role.{role}" for role in machine.roles)} & set(whom)
    )


def keep(topology: Topology, name: str, value: str, host: str | None = None) -> list[str]:
    """Keep ``value``; the machines that it is for. Without ``host`` it replaces all that were given
    under this name, for the machines whose roles bring a formula that uses it."""
    if name in NOT_GIVEN:
        raise UserError(f"SECRET={name}: is made and signed, not given (salt/pki/README.md)", 2)
    whom = find_recipients(topology, name, host)
    value = value.strip()
    if not value or "\0" in value:
        raise UserError(
            f"SECRET={name}: its value is {'no text' if value else 'empty'}; nothing was changed", 2
        )
    if len(topology.machines) > 1 and (shared := shared_secrets.read_declared(topology).get(name)):
        if host:
            raise UserError(
                f"HOST={host}: {name} is shared by {', '.join(shared.roles)}: leave HOST out", 2
            )
        shared_secrets.replace(topology, name, value)
        whom = [f"role.{role}" for role in shared.roles]
    else:
        with shared_secrets.lock_folder(topology) as folder:
            for recipient in whom:
                atomic_file.write(folder / f"given.{recipient}.{name}", value)
            if not host:
                delete(topology, name, whom)
    return [machine.name for machine in topology.machines.values() if is_for(machine, whom)]


def delete(topology: Topology, name: str, but: Iterable[str] = ()) -> bool:
    left = {f"given.{recipient}.{name}" for recipient in but}
    gone = [
        path
        for path in _files(topology)
        if path.name.endswith(f".{name}") and path.name not in left
    ]
    for path in gone:
        path.unlink()
    return bool(gone)
