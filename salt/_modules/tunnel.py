"""
For formula stunnel: services of this machine that other machines reach by TLS although they speak none: what each
formula says in its ``tunnels.yaml.j2``; its format is salt/_schemas/tunnels.schema.yaml.
"""

import glob
import os

from salt.exceptions import CommandExecutionError

__virtualname__ = "tunnel"


def __virtual__():
    return __virtualname__


def servers():
    """
    Tunnels that end on this machine: ``[{name, accept, connect, role, peers, part_of}]``, without
    those whose users are no other machine. ``peers`` are the names that a client's certificate may
    carry.

    CLI Example:

    .. code-block:: bash

        salt-call tunnel.servers
    """
    own = __salt__["topology.machine"]()["name"]
    found, taken = [], {}
    for formula, said in __salt__["formula.collect"]("tunnels.yaml.j2").items():
        for name, given in (said or {}).items():
            port, role = given["accept"], given["from"]["role"]
            if port in taken:
                raise CommandExecutionError(
                    f"refused: {formula}/tunnels.yaml.j2: {name}: accept: {port} is {taken[port]}'s already;"
                    " nothing was changed"
                )
            taken[port] = name
            machines = __salt__["topology.machines"](role)
            peers = [one["name"] for one in machines if one["name"] != own]
            if peers:
                found.append(
                    {
                        "name": name,
                        "accept": port,
                        "connect": given["connect"],
                        "role": role,
                        "peers": peers,
                        "part_of": given.get("part_of"),
                    }
                )
    return found


def left():
    """Names of tunnels that this machine had and that nobody says any more.

    CLI Example:

    .. code-block:: bash

        salt-call tunnel.left
    """
    wanted = {one["name"] for one in servers()}
    # As salt/stunnel/files/tunnel.conf.j2 begins: any other file is not ours.
    names = []
    for path in sorted(glob.glob("/etc/stunnel/*.conf")):
        with open(path, encoding="utf-8", errors="replace") as file:
            ours = "Managed by Salt (salt/stunnel)" in file.readline()
        name = os.path.basename(path)[: -len(".conf")]
        if ours and name not in wanted:
            names.append(name)
    return names
