"""Where services are that machines use over the network: what formulas say in their ``endpoint.yaml.j2``."""

from salt.exceptions import CommandExecutionError

__virtualname__ = "endpoints"


def __virtual__():
    return __virtualname__


def find(name):
    """
    Where this machine reaches a service that other machines use too, as its formula says in its own
    ``endpoint.yaml.j2``: ``{machine, address, port, tls}``.

    name
        what the formula calls the service

    Raises CommandExecutionError where no formula of the tree has it, or no machine its role.

    CLI Example:

    .. code-block:: bash

        salt-call endpoints.find redis
    """
    known = {}
    for said in __salt__["formula.offered"]("endpoint.yaml.j2").values():
        known.update(said or {})
    if name not in known:
        offered = ", ".join(sorted(known)) or "none"
        raise CommandExecutionError(f"no formula offers an endpoint {name}; there are: {offered}")
    given = known[name]
    machines = __salt__["topology.machines"](given["role"])
    if not machines:
        raise CommandExecutionError(f"endpoint {name}: no machine has role {given['role']}")
    host = machines[0]["name"]
    tls = __salt__["topology.is_remote"](given.get("clients"), host)
    return {
        "machine": host,
        "address": __salt__["topology.address"](given.get("clients"), host),
        "port": given["tls_port" if tls else "port"],
        "tls": tls,
    }
