"""
For formula keepalived: the topology's floating address, who shares it, and what it is for: what each formula says
in its ``floating.yaml.j2``; its format is salt/_schemas/floating.schema.yaml.
"""

from salt.exceptions import CommandExecutionError

__virtualname__ = "floating"

CONFIGURATION = "/etc/keepalived/keepalived.conf"


def __virtual__():
    return __virtualname__


def address():
    """
    The address that clients use, on whichever of several edges has it; None where the topology has none.

    CLI Example:

    .. code-block:: bash

        salt-call floating.address
    """
    return __pillar__.get("topology", {}).get("floating_address")


def group():
    """
    The machines that share the address, as this one sees them: ``{address, machine, own, interface, peers,
    checks, ports, units}``; None where there is no such address or this machine is no edge.

    CLI Example:

    .. code-block:: bash

        salt-call floating.group
    """
    machine = __salt__["topology.machine"]()
    if not address() or "edge" not in machine["roles"]:
        return None
    listed = checks()
    if not listed:
        raise CommandExecutionError(
            "refused: the topology has a floating_address, and no formula of its edges says what it is for"
            " (floating.yaml.j2); nothing was changed"
        )
    edges = __salt__["topology.machines"]("edge")
    return {
        "address": address(),
        "machine": machine["name"],
        "own": machine["address"],
        "interface": _interface(machine["address"]),
        "peers": [one["address"] for one in edges if one["name"] != machine["name"]],
        "checks": listed,
        "ports": [port for one in listed for port in one["ports"]],
        "units": [one["unit"] for one in listed],
    }


def checks():
    """
    What the address is for on this machine: ``[{name, unit, ports, port, answers, serves, drain}]``.

    CLI Example:

    .. code-block:: bash

        salt-call floating.checks
    """
    return [
        {"name": name, **given}
        for said in __salt__["formula.collect"]("floating.yaml.j2").values()
        for name, given in (said or {}).items()
    ]


def _interface(own):
    """The one with this machine's address on the private network; a name that says so, which keepalived's own
    check refuses, where none has it."""
    for name, addresses in __grains__.get("ip4_interfaces", {}).items():
        if own in addresses:
            return name
    return f"none-has-{own}"


def is_left():
    """
    Whether keepalived is still here, of a topology that had a floating address before.

    CLI Example:

    .. code-block:: bash

        salt-call floating.is_left
    """
    try:
        with open(CONFIGURATION, encoding="utf-8", errors="replace") as file:
            return "Managed by Salt (formula keepalived)" in file.readline()
    except OSError:
        return False
