"""
Questions to the topology: who am I, who has a role, where does a service listen.

The data is the pillar's ``topology`` and ``machine`` (pillar/topology.sls). Where the pillar has neither, as in
a tree of somebody else's that took a formula over, this is the only machine and has every role.
"""

import ipaddress

from salt.exceptions import CommandExecutionError

__virtualname__ = "topology"

# Those of pillar/topology.schema.yaml, for a tree that has no topology.
ROLES = ("edge", "app", "store", "monitor")


def __virtual__():
    return __virtualname__


def _data():
    """``(topology, machine)``."""
    if "topology" in __pillar__:
        return __pillar__["topology"], __pillar__["machine"]
    addresses = [
        one for one in __grains__.get("ipv4", []) if not ipaddress.ip_address(one).is_loopback
    ]
    own = {"address": (addresses or ["127.0.0.1"])[0], "roles": list(ROLES)}
    name = __grains__["id"]
    return {"name": name, "domain": name, "machines": {name: own}}, {"name": name, **own}


def machine():
    """This machine: ``{name, address, roles, …}``.

    CLI Example:

    .. code-block:: bash

        salt-call topology.machine
    """
    return dict(_data()[1])


def roles():
    """Roles that a machine can have; that no machine of this topology has one makes it none the less a role.

    CLI Example:

    .. code-block:: bash

        salt-call topology.roles
    """
    return list(__pillar__.get("topology", {}).get("roles") or ROLES)


def machines(role=None):
    """Machines of the topology, ``[{name, address, roles, …}]``, those with ``role`` if given.

    CLI Example:

    .. code-block:: bash

        salt-call topology.machines app
    """
    return [
        {"name": name, **data}
        for name, data in _data()[0]["machines"].items()
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
    own = machine()
    name = name or own["name"]
    found = {one["name"]: one for one in machines()}
    if name not in found:
        raise CommandExecutionError(
            f"topology has no machine {name}; there are: {', '.join(found)}"
        )
    if {one["name"] for one in machines(clients)} == {name}:
        return "127.0.0.1"
    if name == own["name"]:
        return own["address"]
    return found[name]["address"]


def is_remote(clients, name=None):
    """
    Whether a service on machine ``name`` (this one by default), whose users are the machines with
    role ``clients``, is used from any other machine; see :py:func:`address`.

    CLI Example:

    .. code-block:: bash

        salt-call topology.is_remote edge
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
    own = machine()["name"]
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
    return cores(one)


def cores(one=None):
    """How many cores machine ``one`` has: the topology's ``cpus``, or this machine's own count where the topology
    is silent.

    CLI Example:

    .. code-block:: bash

        salt-call topology.cores
    """
    one = one or machine()
    return one.get("cpus") or __grains__.get("num_cpus") or 1


def turn():
    """
    Which in its turn this machine is among those with the same first role, from 0: of what must not happen
    to all of them at once.

    CLI Example:

    .. code-block:: bash

        salt-call topology.turn
    """
    own = machine()
    alike = [one["name"] for one in machines() if one["roles"][:1] == own["roles"][:1]]
    return alike.index(own["name"]) if own["name"] in alike else 0


def hosts():
    """Lines of /etc/hosts for every machine of the topology; the edge has the clients' name too, or the address
    that several edges share.

    CLI Example:

    .. code-block:: bash

        salt-call topology.hosts
    """
    name, shared = domain(), entrance()
    lines = [
        f"{one['address']} {one['name']}{f' {name}' if 'edge' in one['roles'] and not shared else ''}\n"
        for one in machines()
    ]
    return "".join([*lines, f"{shared} {name}\n"] if shared else lines)


def balancer():
    """
    What forwards clients' connections to the edges, with a PROXY protocol header: ``{address, from}``, the address that
    clients use and the networks that it comes from; None where there is none.

    CLI Example:

    .. code-block:: bash

        salt-call topology.balancer
    """
    return _data()[0].get("balancer")


def entrance():
    """
    The one address under which clients reach whichever edge serves, a balancer's or a floating one; None where
    an edge's own is all there is.

    CLI Example:

    .. code-block:: bash

        salt-call topology.entrance
    """
    return (balancer() or {}).get("address") or _data()[0].get("floating_address")


def domain():
    """The name that clients use.

    CLI Example:

    .. code-block:: bash

        salt-call topology.domain
    """
    return _data()[0]["domain"]


def names():
    """
    Names and addresses under which clients reach the edge: for its certificate.
    ``{dns: […], ip: […]}``

    CLI Example:

    .. code-block:: bash

        salt-call topology.names
    """
    # Of all edges, who share one certificate.
    own = machine()
    edges = [one for one in machines("edge") if one["name"] != own["name"]]
    dns = {domain(), "localhost"}
    addresses = {"127.0.0.1"}
    for one in (own, *edges):
        dns.add(one["name"])
        addresses.add(one["address"])
        # In a cloud, clients come to another address than the other machines do.
        if one.get("public"):
            addresses.add(one["public"])
    # The one address of several edges.
    if shared := entrance():
        addresses.add(shared)
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
    found = ["127.0.0.0/8", "::1", machine()["address"]]
    found += [one["address"] for one in machines()]
    found += [str(one) for one in _data()[0].get("trusted") or []]
    return list(dict.fromkeys(found))


def default_application():
    """The application that gets what none claims by its name, as the topology says; None where it says nothing.

    CLI Example:

    .. code-block:: bash

        salt-call topology.default_application
    """
    return _data()[0].get("default")
