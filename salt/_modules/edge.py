"""For formula haproxy: what the edge says of the application's instances, wherever they run."""

import shlex

__virtualname__ = "edge"


def __virtual__():
    return __virtualname__


def waiting(*machines):
    """
    Instances of ``machines`` that this edge knows and does not send requests to; empty when it uses
    all of them, or knows none: then its next configuration brings them.

    CLI Example:

    .. code-block:: bash

        salt-call edge.waiting app1 app2
    """
    settings = __salt__["formula.settings"]("haproxy")
    servers = __utils__["haproxy_socket.servers"](settings["admin"]["socket"])
    return sorted(
        f"{name} ({server['status']})"
        for name, server in servers.items()
        if name.rpartition("/")[2].rpartition("-")[0] in machines and not server["in_rotation"]
    )


def rotation_check(server, address, application=None):
    """
    The shell command that tells by its exit code whether the edge of this machine sends requests to ``server``
    at ``address`` (``HOST:PORT``), or need not be waited for (salt/_utils/haproxy_socket.py). ``application``: whose server it is, by
    the name in its ``backend.yaml.j2``.

    CLI Example:

    .. code-block:: bash

        salt-call edge.rotation_check app1-1 127.0.0.1:8001
    """
    program = __salt__["tree.file"]("salt://_utils/haproxy_socket.py")
    path = __salt__["formula.settings"]("haproxy")["admin"]["socket"]
    proxies = {one["name"]: one["proxy"] for one in __salt__["backends.served"]()["applications"]}
    if proxies.get(application, "app") != "app":
        server = f"{proxies[application]}/{server}"
    return f"/usr/bin/python3 {shlex.quote(program)} {shlex.quote(path)} {server} {address}"
