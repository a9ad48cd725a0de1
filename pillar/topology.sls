#!py
"""`topology`: the whole topology of topologies/NAME.yaml. `machine`: this machine's part of it.
`secrets`: those that it shares with other machines or was given on the controller. And the topology's
own settings, settings/NAME.sls, where there are any, over those of settings.sls.

Which machine this is stands in machine.yaml, beside this file: the controller writes it when it
carries the tree (git ignores it): topology, name, release, and `address: auto` where the machine
is not one of the lab's and has an address of its own. machine-secrets.yaml comes the same way.
Without the file, as in a bare `sudo salt-call state.apply` on a server, this is the only machine
of topology `dev`. Under a salt-master the minion's id is the machine's name, and the master's
option `stack_topology` names the topology (docs/salt-master.md).
"""

import importlib.util
import os
import socket

# By name: in a `py` pillar file `salt` itself is Salt's execution modules.
from salt.utils.network import ip_addrs
from salt.utils.yaml import safe_load


def _load(path):
    with open(path, encoding="utf-8") as file:
        return safe_load(file)


def _checked(root, name):
    """The topology, refused for what every formula would build on."""
    topology = _load(os.path.join(root, "topologies", name + ".yaml"))
    spec = importlib.util.spec_from_file_location(
        "topology_check", os.path.join(root, "topology_check.py")
    )
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    schema = _load(os.path.join(root, "topology.schema.yaml"))
    wrong = check.problems(topology, schema, name)
    if wrong:
        raise ValueError(f"topology {name}: {wrong[0]}")
    # Also those that no machine of this topology has.
    topology["roles"] = schema["$defs"]["role"]["enum"]
    return topology


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
    given, secrets = {"address": "auto"}, {}
    if __opts__.get("stack_topology"):
        given = {"topology": __opts__["stack_topology"], "name": __grains__["id"]}
    elif os.path.exists(os.path.join(root, "machine.yaml")):
        given = _load(os.path.join(root, "machine.yaml"))
        if os.path.exists(os.path.join(root, "machine-secrets.yaml")):
            secrets = _load(os.path.join(root, "machine-secrets.yaml"))
    topology = _checked(root, given.get("topology", "dev"))
    topology.setdefault("name", given.get("topology", "dev"))
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
    found = {
        "topology": topology,
        "machine": {"name": name, "release": given.get("release"), **machine},
    }
    if given.get("releases"):
        # Of other applications than the counter.
        found["machine"]["releases"] = given["releases"]
    if secrets:
        found["secrets"] = secrets
        # The controller has checked these names; what none of the settings uses any more harms nobody.
        found["machine"]["secrets"] = sorted(secrets)
    if os.path.exists(os.path.join(root, "settings", topology["name"] + ".sls")):
        found["include"] = ["settings." + topology["name"]]
    return found
