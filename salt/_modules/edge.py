"""For formula haproxy: what the edge says of the application's instances, wherever they run."""

import csv
import shlex
import socket

__virtualname__ = "edge"


def __virtual__():
    return __virtualname__


def servers(path):
    """``{name: {address, status}}`` of HAProxy's application servers, by its administration socket;
    empty when it does not run."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as admin:
            admin.settimeout(5)
            admin.connect(path)
            admin.sendall(b"show stat\n")
            said = b""
            while block := admin.recv(65536):
                said += block
    except (FileNotFoundError, ConnectionRefusedError):
        return {}
    rows = csv.DictReader(said.decode().removeprefix("# ").splitlines())
    return {
        row["svname"]: {"address": row["addr"], "status": row["status"]}
        for row in rows
        if row["pxname"] == "app" and row["svname"] not in ("FRONTEND", "BACKEND")
    }


def waiting(*machines):
    """
    Instances of ``machines`` that this edge knows and does not send requests to; empty when it uses
    all of them, or knows none: then its next configuration brings them.

    CLI Example:

    .. code-block:: bash

        salt-call edge.waiting app1 app2
    """
    settings = __salt__["formula.settings"]("haproxy")
    found = servers(settings["admin"]["socket"])
    return sorted(
        f"{name} ({one['status']})"
        for name, one in found.items()
        if name.rpartition("-")[0] in machines and not one["status"].startswith("UP")
    )


def rotation_check(server, address):
    """
    The shell command that tells by its exit code whether the edge of this machine sends requests to ``server``
    at ``address`` (``HOST:PORT``), or need not be waited for (salt/haproxy/files/server_up.py).

    CLI Example:

    .. code-block:: bash

        salt-call edge.rotation_check app1-1 127.0.0.1:8001
    """
    program = __salt__["formula.file"]("salt://haproxy/files/server_up.py")
    path = __salt__["formula.settings"]("haproxy")["admin"]["socket"]
    return f"/usr/bin/python3 {shlex.quote(program)} {shlex.quote(path)} {server} {address}"
