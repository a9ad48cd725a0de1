#!py
"""`topology`: the whole topology of topologies/NAME.yaml. `machine`: this machine's part of it.

Which machine this is stands in machine.yaml, beside this file: the controller writes it when it
carries the tree (git ignores it): topology, name, release, and `address: auto` where the machine
is not one of the lab's and has an address of its own. Without the file, as in a bare
`sudo salt-call state.apply` on a server, this is the only machine of topology `dev`.
"""

import os
import re
import socket

# By name: in a `py` pillar file `salt` itself is Salt's execution modules.
from salt.utils.network import ip_addrs
from salt.utils.yaml import safe_load


def _load(path):
    with open(path, encoding="utf-8") as file:
        return safe_load(file)


ROLES = ("edge", "app", "store", "monitor")


def _check(topology):
    """Refuse what every formula would build on: unknown roles, an address that is given twice."""
    seen = {}
    for name, machine in topology["machines"].items():
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
            raise ValueError(
                f"topology {topology['name']}: machines:{name}: a name has a-z, 0-9 and -"
            )
        for role in machine["roles"]:
            if role not in ROLES:
                raise ValueError(
                    f"topology {topology['name']}: machines:{name}:roles: unknown role {role};"
                    f" known: {', '.join(ROLES)}"
                )
        owner = seen.setdefault(machine["address"], name)
        if owner != name:
            raise ValueError(
                f"topology {topology['name']}: machines:{name}:address:"
                f" {machine['address']} is {owner}'s already"
            )


def _own_address(given):
    """The topology's address when this machine has it, else the one it uses towards the world."""
    if given in ip_addrs():
        return given
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        try:
            # Asks the routing table; nothing is sent. 192.0.2.0/24 is nobody's (RFC 5737).
            route.connect(("192.0.2.1", 9))
            return route.getsockname()[0]
        except OSError:
            return "127.0.0.1"


def run():
    root = __opts__["pillar_roots"]["base"][0]
    given = {"address": "auto"}
    if os.path.exists(os.path.join(root, "machine.yaml")):
        given = _load(os.path.join(root, "machine.yaml"))
    topology = _load(os.path.join(root, "topologies", given.get("topology", "dev") + ".yaml"))
    _check(topology)
    machines = topology["machines"]
    name = given.get("name")
    if name is None and len(machines) == 1:
        name = next(iter(machines))
    if name not in machines:
        raise ValueError(
            f"pillar/machine.yaml must say which machine of topology {topology['name']} this is:"
            f" {', '.join(machines)}; it says {name}"
        )
    machine = machines[name]
    if given.get("address") == "auto":
        machine["address"] = _own_address(machine["address"])
        # The topology's is of lab machines; this server has as many as it has.
        machine.pop("cpus", None)
    return {
        "topology": topology,
        "machine": {"name": name, "release": given.get("release"), **machine},
    }
