#!py
"""`topology`: the whole topology of topologies/NAME.yaml. `machine`: this machine's part of it.

Which machine this is stands in machine.yaml, beside this file: the controller writes it when it
carries the tree (git ignores it). Without one, as in a bare `sudo salt-call state.apply` on a
server, this is the only machine of topology `dev`, at its own address.
"""

import os

# By name: in a `py` pillar file `salt` itself is Salt's execution modules.
from salt.utils.network import ip_addrs
from salt.utils.yaml import safe_load


def _load(path):
    with open(path, encoding="utf-8") as file:
        return safe_load(file)


def run():
    root = __opts__["pillar_roots"]["base"][0]
    given = {}
    if os.path.exists(os.path.join(root, "machine.yaml")):
        given = _load(os.path.join(root, "machine.yaml"))
    topology = _load(os.path.join(root, "topologies", given.get("topology", "dev") + ".yaml"))
    machines = topology["machines"]
    name = given.get("name")
    if name is None:
        if len(machines) != 1:
            raise ValueError(
                f"topology {topology['name']} has {len(machines)} machines and"
                " pillar/machine.yaml does not say which of them this is"
            )
        name = next(iter(machines))
        own = ip_addrs()
        if machines[name]["address"] not in own:
            given["address"] = own[0] if own else "127.0.0.1"
    if name not in machines:
        raise ValueError(
            f"pillar/machine.yaml: machine {name} is not in topology {topology['name']}"
            f" ({', '.join(machines)})"
        )
    if "address" in given:
        machines[name]["address"] = given["address"]
    return {"topology": topology, "machine": {"name": name, **machines[name]}}
