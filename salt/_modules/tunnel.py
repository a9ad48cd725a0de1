"""
For formula stunnel: services of this machine that other machines reach by TLS although they speak none: what each
formula says in its ``tunnels.yaml.j2`` (the format is in salt/stunnel/README.md).
"""

import glob
import os
import re

from salt.exceptions import CommandExecutionError

__virtualname__ = "tunnel"

_KEYS = {"accept", "connect", "from", "follows"}
_NEEDED = ("accept", "connect", "from")


def __virtual__():
    return __virtualname__


def _refuse(reason):
    raise CommandExecutionError(f"refused: {reason}; nothing was changed")


def servers():
    """
    Tunnels that end on this machine: ``[{name, accept, connect, role, peers, follows}]``, without
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
            where = f"{formula}/tunnels.yaml.j2: {name}"
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", str(name)) or not isinstance(given, dict):
                _refuse(f"{where}: needs a name of a-z, 0-9 and -, with {', '.join(_NEEDED)}")
            for key in sorted(set(given) - _KEYS):
                _refuse(
                    f"{where}: unknown key {key}; {__utils__['suggest.hint'](key, sorted(_KEYS))}"
                )
            for key in _NEEDED:
                if key not in given:
                    _refuse(f"{where}: no {key}")
            port, role = given["accept"], (given["from"] or {}).get("role")
            if type(port) is not int or not 1024 <= port <= 65535:
                _refuse(f"{where}: accept: {port!r}: use a port, 1024..65535")
            if not re.fullmatch(r"(127\.0\.0\.1:\d+|/\S+)", str(given["connect"])):
                _refuse(f"{where}: connect: {given['connect']!r}: use 127.0.0.1:PORT or a socket")
            roles = __salt__["topology.roles"]()
            if role not in roles:
                _refuse(
                    f"{where}: from: unknown role {role}; {__utils__['suggest.hint'](role, roles)}"
                )
            if port in taken:
                _refuse(f"{where}: accept: {port} is {taken[port]}'s already")
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
                        "follows": given.get("follows"),
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
