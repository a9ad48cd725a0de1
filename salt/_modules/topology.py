"""
Questions to the topology: who am I, who has a role, where does a service listen.

The data is the pillar's ``topology`` and ``machine`` (pillar/topology.sls).
"""

from salt.exceptions import CommandExecutionError

__virtualname__ = "topology"

# As pillar/topology.schema.yaml has them: a role that no machine of this topology has is still a role.
ROLES = ("edge", "app", "store", "monitor")


def __virtual__():
    return __virtualname__


def roles():
    """All roles that a machine may have.

    CLI Example:

    .. code-block:: bash

        salt-call topology.roles
    """
    return list(ROLES)


def machine():
    """This machine: ``{name, address, roles, …}``.

    CLI Example:

    .. code-block:: bash

        salt-call topology.machine
    """
    return dict(__pillar__["machine"])


def machines(role=None):
    """Machines of the topology, ``[{name, address, roles, …}]``, those with ``role`` if given.

    CLI Example:

    .. code-block:: bash

        salt-call topology.machines app
    """
    return [
        {"name": name, **data}
        for name, data in __pillar__["topology"]["machines"].items()
        if role is None or role in data["roles"]
    ]


def address(clients, name=None):
    """
    The address of a service on machine ``name`` (this one by default) whose only users are the
    machines with role ``clients``: loopback when that is the same machine and no other, else
    the machine's address on the private network. The service listens there and is reached there.

    CLI Example:

    .. code-block:: bash

        salt-call topology.address app store1
    """
    name = name or __pillar__["machine"]["name"]
    found = {one["name"]: one for one in machines()}
    if name not in found:
        raise CommandExecutionError(
            f"topology has no machine {name}; there are: {', '.join(found)}"
        )
    if {one["name"] for one in machines(clients)} == {name}:
        return "127.0.0.1"
    if name == __pillar__["machine"]["name"]:
        return __pillar__["machine"]["address"]
    return found[name]["address"]


def elsewhere(clients, name=None):
    """
    Whether a service on machine ``name`` (this one by default), whose users are the machines with
    role ``clients``, is used from any other machine; see :py:func:`address`.

    CLI Example:

    .. code-block:: bash

        salt-call topology.elsewhere edge
    """
    return address(clients, name) != "127.0.0.1"


def servers(role, port, tunnel_port, count=None):
    """
    Instances of a service on all machines with ``role`` as this machine reaches them: ``[{name,
    machine, address, port, tls}]``, names ``MACHINE-N``. Its own on loopback, ports from ``port``
    up; those of other machines by TLS (salt/stunnel), ports from ``tunnel_port`` up.

    count
        instances on each machine; by default one a core (the topology's ``cpus``, or this
        machine's own count where the topology is silent)

    CLI Example:

    .. code-block:: bash

        salt-call topology.servers app 8001 8443
    """
    own = __pillar__["machine"]["name"]
    return [
        {
            "name": f"{one['name']}-{index + 1}",
            "machine": one["name"],
            "address": "127.0.0.1" if one["name"] == own else one["address"],
            "port": (port if one["name"] == own else tunnel_port) + index,
            "tls": one["name"] != own,
        }
        for one in machines(role)
        for index in range(instances(one, count))
    ]


def instances(one=None, count=None):
    """How many instances of a service machine ``one`` runs; see :py:func:`servers`.

    CLI Example:

    .. code-block:: bash

        salt-call topology.instances
    """
    if count:
        return count
    one = one or machine()
    return one.get("cpus") or __grains__.get("num_cpus") or 1


def hosts():
    """Lines of /etc/hosts for every machine of the topology; the edge has the clients' name too.

    CLI Example:

    .. code-block:: bash

        salt-call topology.hosts
    """
    domain = __pillar__["topology"]["domain"]
    return "".join(
        f"{one['address']} {one['name']}{f' {domain}' if 'edge' in one['roles'] else ''}\n"
        for one in machines()
    )


def names():
    """
    Names and addresses under which clients reach the edge: for its certificate.
    ``{dns: […], ip: […]}``

    CLI Example:

    .. code-block:: bash

        salt-call topology.names
    """
    own = machine()
    dns = {__pillar__["topology"]["domain"], own["name"], "localhost"}
    addresses = {own["address"], "127.0.0.1"}
    # In a cloud, clients come to another address than the other machines do.
    if own.get("public"):
        addresses.add(own["public"])
    return {"dns": sorted(dns), "ip": sorted(addresses)}


def trusted():
    """
    Clients that are never rate-limited nor banned: loopback, every machine of the topology (so
    that none can shut out another, the load balancer least of all) and the topology's own
    ``trusted``. Addresses and networks, each once.

    CLI Example:

    .. code-block:: bash

        salt-call topology.trusted
    """
    found = ["127.0.0.0/8", "::1", __pillar__["machine"]["address"]]
    found += [one["address"] for one in machines()]
    found += [str(one) for one in __pillar__["topology"].get("trusted") or []]
    return list(dict.fromkeys(found))
