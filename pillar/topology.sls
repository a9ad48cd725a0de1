#!py
"""`topology`: the whole topology of topologies/NAME.yaml. `machine`: this machine's part of it.

Which machine this is stands in machine.yaml, beside this file: the controller writes it when it
carries the tree (git ignores it): topology, name, release, and `address: auto` where the machine
is not one of the lab's and has an address of its own. Without the file, as in a bare
`sudo salt-call state.apply` on a server, this is the only machine of topology `dev`.
"""

import os

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
    """The topology's address when this machine has it, else the first of its own."""
    own = ip_addrs()
    return given if given in own or not own else own[0]


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
    return {
        "topology": topology,
        "machine": {"name": name, "release": given.get("release"), **machine},
    }
