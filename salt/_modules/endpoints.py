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
    given, hosts = _known(name)
    return _endpoint(given, hosts[0])


def find_all(name):
    """
    As :py:func:`find`, on every machine of its role: a list, empty where no formula offers it.

    CLI Example:

    .. code-block:: bash

        salt-call endpoints.find_all sentinel
    """
    if name not in _offered():
        return []
    given, hosts = _known(name)
    return [_endpoint(given, host) for host in hosts]


def _offered():
    known = {}
    for said in __salt__["formula.offered"]("endpoint.yaml.j2").values():
        known.update(said or {})
    return known


def _known(name):
    """What its formula says of it, and the machines that have its role."""
    known = _offered()
    if name not in known:
        offered = ", ".join(sorted(known)) or "none"
        raise CommandExecutionError(f"no formula offers an endpoint {name}; there are: {offered}")
    machines = __salt__["topology.machines"](known[name]["role"])
    if not machines:
        raise CommandExecutionError(f"endpoint {name}: no machine has role {known[name]['role']}")
    return known[name], [one["name"] for one in machines]


def _endpoint(given, host):
    tls = __salt__["topology.is_remote"](given.get("clients"), host)
    return {
        "machine": host,
        "address": __salt__["topology.address"](given.get("clients"), host),
        "port": given["tls_port" if tls else "port"],
        "tls": tls,
    }
