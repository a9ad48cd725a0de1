"""What the edge says of the application's instances, wherever they run."""

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
        if name.rpartition("-")[0] in machines and not server["in_rotation"]
    )
