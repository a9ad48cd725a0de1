"""
Whose a line of the journal is, from each formula's own ``logs.yaml.j2``; the format is in
salt/shipper/README.md.
"""

import re

from salt.exceptions import CommandExecutionError

__virtualname__ = "logs"

_KINDS = {
    # A systemd unit's whole name, `*` for any part of it.
    "units": r"[A-Za-z0-9:_.@\\*-]+\.(service|socket|timer|scope|path|mount|target)",
    "identifiers": r"[^\s]{1,64}",
    "transports": r"kernel|audit|driver",
}


def __virtual__():
    return __virtualname__


def _is_ecs(given):
    """``{field: its name in ECS}``, or for a name ``{to: name, scale: factor, strip: prefix}``."""
    for field, to in given.items() if isinstance(given, dict) else [("", None)]:
        rule = {"to": to} if isinstance(to, str) else to
        if not isinstance(rule, dict) or set(rule) - {"to", "scale", "strip"}:
            return False
        if not re.fullmatch(r"[A-Za-z0-9_-]+", str(field)):
            return False
        if not re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)*", str(rule.get("to"))):
            return False
    return True


def collect(ecs=False):
    """
    ``{service: {units, identifiers, transports}}`` of this machine, in the order of top.sls.

    ecs
        also what the fields of its JSON lines are called in the Elastic Common Schema

    Raises CommandExecutionError, naming formula and service, for what is wrong, and for a unit,
    identifier or transport that two services claim.

    CLI Example:

    .. code-block:: bash

        salt-call logs.collect
    """
    found, owners = {}, {}
    for formula, services in __salt__["formula.collect"]("logs.yaml.j2").items():
        for name, given in (services or {}).items():
            where = f"{formula}/logs.yaml.j2: {name}"
            if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name) or name == "system":
                raise CommandExecutionError(f"{where}: allowed: a-z, 0-9 and -; not system")
            if name in found:
                raise CommandExecutionError(f"{where}: another formula has this service")
            known = dict(given) if isinstance(given, dict) else {}
            names = known.pop("ecs", {})
            if not _is_ecs(names):
                raise CommandExecutionError(f"{where}: ecs: needs FIELD: NAME.OF.ECS")
            if not known or set(known) - set(_KINDS):
                raise CommandExecutionError(f"{where}: needs {', '.join(_KINDS)}, at least one")
            for kind, values in known.items():
                for value in values if isinstance(values, list) else [None]:
                    if not isinstance(value, str) or not re.fullmatch(_KINDS[kind], value):
                        raise CommandExecutionError(f"{where}: {kind}: {value!r} is not right")
                    if owners.setdefault((kind, value), name) != name:
                        raise CommandExecutionError(
                            f"{where}: {kind}: {value} is {owners[kind, value]}'s already"
                        )
            found[name] = {kind: list(values) for kind, values in known.items()}
            if ecs:
                found[name]["ecs"] = names
    return found


def services(machine):
    """
    Services that ``machine`` (``{roles: […]}``) of the topology has logs of, by name and sorted; what is
    nobody's is ``system``'s.

    CLI Example:

    .. code-block:: bash

        salt-call logs.services '{roles: [edge]}'
    """
    found = set()
    for formula in __salt__["metrics.formulas"](machine):
        key = f"logs.of.{formula}"
        if key not in __context__:
            __context__[key] = __salt__["formula.said"](formula, "logs.yaml.j2")
        found |= set(__context__[key] or {})
    return sorted(found)
