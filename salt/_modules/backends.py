"""
What the edge serves, for formula haproxy and for what rolls behind it: from each formula's own ``backend.yaml.j2``; the format is in
salt/README.md.
"""

from salt.exceptions import CommandExecutionError

__virtualname__ = "backends"


def __virtual__():
    return __virtualname__


def served():
    """
    What the edge has to serve: ``{default, applications: [{name, proxy, hosts, health, methods, max_body, limit,
    timeout, servers}]}``, the default one first. A server is ``{name, machine, address, port, tls}``. ``default``, a name, is what
    the topology says (``default``), or the only one that there is; it gets what no other claims, and None
    leaves that to a 421. Without any formula that hands one over the edge answers 503.

    Raises CommandExecutionError where the topology's default is not there, two claim a name, or one port, or nobody
    could reach one.

    CLI Example:

    .. code-block:: bash

        salt-call backends.served
    """
    found = {
        name: given
        for said in __salt__["formula.offered"]("backend.yaml.j2").values()
        for name, given in (said or {}).items()
    }
    default = __salt__["topology.default_application"]() or (
        next(iter(found)) if len(found) == 1 else None
    )
    if default and found and default not in found:
        raise CommandExecutionError(
            f"topology: default: {__salt__['schemas.unknown'](default, sorted(found))}; nothing was changed"
        )
    _refuse_twice(found)
    for name, given in sorted(found.items()):
        if name != default and not given.get("hosts"):
            raise CommandExecutionError(
                f"{name} has no hosts and is not the topology's default, so that nobody could reach it: write `default:"
                f" {name}` into pillar/topologies/, or give it hosts; nothing was changed"
            )
    names = sorted(found, key=lambda name: (name != default, name))
    return {
        "default": default,
        "applications": [
            {
                "name": name,
                "proxy": "app" if name == default else f"app-{name}",
                "hosts": found[name].get("hosts") or [],
                "health": found[name]["health"],
                "methods": found[name].get("methods"),
                "max_body": found[name].get("max_body"),
                "limit": found[name].get("limit"),
                "timeout": found[name].get("timeout"),
                "servers": _servers(found[name]),
            }
            for name in names
        ],
    }


def _refuse_twice(found):
    """Of the names of hosts, and of the ports of those that run on the same machines."""
    hosts, ports = {}, {}
    for name, given in sorted(found.items()):
        for host in given.get("hosts") or []:
            if host in hosts:
                raise CommandExecutionError(
                    f"backend.yaml.j2: {host} is claimed by {hosts[host]} and {name}; nothing was changed"
                )
            hosts[host] = name
        if "port" not in given:
            continue
        count = given.get("instances") or __salt__["topology.instances"]()
        for number in range(given["port"], given["port"] + count):
            if number in ports:
                raise CommandExecutionError(
                    f"backend.yaml.j2: port {number} is {ports[number]}'s and {name}'s; nothing was changed"
                )
            ports[number] = name


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
