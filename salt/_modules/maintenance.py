"""
For formula haproxy: maintenance, when the edge answers 503 itself. Whether it is on stands in a map of HAProxy's, which it reads when it
starts or reloads; it is told of a change by its administration socket.
"""

import socket

from salt.exceptions import CommandExecutionError

__virtualname__ = "maintenance"

FOLDER = "/etc/haproxy"
# Its name in haproxy.cfg, relative to that file.
_MAP = "maintenance.map"
_ON = "on 1\n"
_PAGE = "Down for maintenance. Please come back later.\n"


def __virtual__():
    return __virtualname__


def is_on():
    """
    Whether maintenance is on.

    CLI Example:

    .. code-block:: bash

        salt-call maintenance.is_on
    """
    return bool((__utils__["atomic_file.read_text"](f"{FOLDER}/{_MAP}") or "").strip())


def files(page=None, clients=()):
    """
    What HAProxy reads, as ``checked.render`` has files: the map as it is, the page, and the clients that are let through.

    CLI Example:

    .. code-block:: bash

        salt-call maintenance.files
    """
    texts = {
        _MAP: _ON if is_on() else "",
        "errors/maintenance.page": page or _PAGE,
        "maintenance-clients.list": "".join(
            # The machine's own health checks go on.
            f"{one}\n"
            for one in ["127.0.0.0/8", "::1", *clients]
        ),
    }
    return {
        f"{FOLDER}/{name}": {
            "data": text.encode(),
            "mode": 0o644,
            "user": "root",
            "group": "root",
            "secret": False,
        }
        for name, text in texts.items()
    }


def switch(on):
    """
    Turn maintenance on or off, at once, and over every reload, apply and reboot; True when it was not so before.

    CLI Example:

    .. code-block:: bash

        salt-call maintenance.switch true
    """
    has_changed = is_on() != bool(on)
    path = f"{FOLDER}/{_MAP}"
    __utils__["atomic_file.write"](path, _ON if on else "", mode=0o644)
    admin = __salt__["formula.settings"]("haproxy")["admin"]["socket"]
    commands = [f"clear map {_MAP}", *([f"add map {_MAP} on 1"] if on else [])]
    for command in commands:
        said = _tell(admin, command)
        if said is None:
            # It reads the map when it starts.
            return has_changed
        if said:
            raise CommandExecutionError(
                f"HAProxy: {command}: {said}; is the formula applied? 'make apply SLS=haproxy'"
            )
    # It has loaded that, or the next apply would reload it; not where an apply under way says that nobody knows.
    known = __salt__["units.loaded"]("haproxy")
    if known.get(path, "unknown") != "unknown":
        now = __salt__["file_set.digests"]([path])
        __salt__["units.mark_loaded"]("haproxy", {**known, **now})
    return has_changed


def _tell(path, command):
    """What HAProxy says; None where it does not run."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as admin:
            admin.settimeout(5)
            admin.connect(path)
            admin.sendall(f"{command}\n".encode())
            answer = b""
            while block := admin.recv(4096):
                answer += block
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    return answer.decode(errors="replace").strip()
