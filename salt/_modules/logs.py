"""
Whose a line of the journal is, from each formula's own ``logs.yaml.j2``; its format is
salt/_schemas/logs.schema.yaml.
"""

from salt.exceptions import CommandExecutionError

__virtualname__ = "logs"

_KINDS = ("units", "identifiers", "transports")


def __virtual__():
    return __virtualname__


def collect(ecs=False):
    """
    ``{service: {units, identifiers, transports}}`` of this machine, in the order of top.sls.

    ecs
        also what the fields of its JSON lines are called in the Elastic Common Schema

    Raises CommandExecutionError, naming formula and service, for a service of two formulas, and for a unit,
    identifier or transport of two services.

    CLI Example:

    .. code-block:: bash

        salt-call logs.collect
    """
    found, owners = {}, {}
    for formula, services in __salt__["formula.collect"]("logs.yaml.j2").items():
        for name, given in (services or {}).items():
            where = f"{formula}/logs.yaml.j2: {name}"
            if name in found:
                raise CommandExecutionError(f"{where}: another formula has this service")
            found[name] = {kind: list(given[kind]) for kind in _KINDS if kind in given}
            for kind, values in found[name].items():
                for value in values:
                    if owners.setdefault((kind, value), name) != name:
                        raise CommandExecutionError(
                            f"{where}: {kind}: {value} is {owners[kind, value]}'s already"
                        )
            if ecs:
                found[name]["ecs"] = given.get("ecs", {})
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
            __context__[key] = __salt__["tree.said"](formula, "logs.yaml.j2")
        found |= set(__context__[key] or {})
    return sorted(found)
