"""
For formula haproxy: what the edge serves, from each formula's own ``backend.yaml.j2``; the format is in
salt/README.md.
"""

from salt.exceptions import CommandExecutionError

__virtualname__ = "backends"


def __virtual__():
    return __virtualname__


def served():
    """
    The one backend that the edge has: ``{name, health, servers: [{name, machine, address, port, tls}]}``.
    Without any formula that hands one over its name is None, its list of servers is empty, and the edge
    answers 503.

    Raises CommandExecutionError where formulas hand over two.

    CLI Example:

    .. code-block:: bash

        salt-call backends.served
    """
    found = {
        name: given
        for said in __salt__["formula.offered"]("backend.yaml.j2").values()
        for name, given in (said or {}).items()
    }
    if len(found) > 1:
        raise CommandExecutionError(
            f"backend.yaml.j2: {', '.join(sorted(found))}: the edge serves one application, not"
            f" {len(found)}; nothing was changed"
        )
    for name, given in found.items():
        return {"name": name, "health": given["health"], "servers": _servers(given)}
    return {"name": None, "health": "/", "servers": []}


def _servers(given):
    if "servers" not in given:
        return __salt__["topology.servers"](
            given["role"], given["port"], given["tunnel_port"], given.get("instances")
        )
    # Of somebody else's, who says himself where they are.
    return [
        {"name": name, "machine": name, "address": host, "port": int(port), "tls": False}
        for name, (host, _, port) in (
            (name, place.rpartition(":")) for name, place in given["servers"].items()
        )
    ]
