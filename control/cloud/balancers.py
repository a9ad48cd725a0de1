"""
DigitalOcean's load balancer before several edges: it passes TCP on with a PROXY protocol header, to those that are ready
(salt/haproxy). In the lab a floating address is what clients use instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..application import NAME
from ..errors import UserError
from ..topology import Topology
from . import account

# What the topology says, and so no file of options.
OWN = (
    *("name", "region", "tag", "droplet_ids", "vpc_uuid", "forwarding_rules"),
    *("enable_proxy_protocol", "network", "network_stack"),
)
# ID of one that is still to be made.
NOT_YET = "not made yet"
_WHERE = "cloud/cloud.balancers.d: edge"


@dataclass(frozen=True)
class Balancer:
    """What there is, as the API shows it (None: nothing), what it should be (None: gone), and how it differs."""

    there: dict[str, Any] | None
    wanted: dict[str, Any] | None
    differs: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Its ID, or what stands for it in a plan."""
        return str((self.there or {}).get("id") or NOT_YET)

    @property
    def is_new(self) -> bool:
        return self.there is None and self.wanted is not None

    @property
    def is_gone(self) -> bool:
        return self.there is not None and self.wanted is None

    @property
    def is_broken(self) -> bool:
        return self.there is not None and self.there.get("status") == "errored"


def is_wanted(topology: Topology) -> bool:
    return len(topology.with_role("edge")) > 1


def find(api: Any, topology: Topology) -> dict[str, Any] | None:
    """The topology's load balancer; UserError for one of its name that is not its own."""
    name = f"{NAME}-{topology.name}"
    named = [one for one in api.all("load_balancers", "load_balancers") if one.get("name") == name]
    own = [one for one in named if account.is_own_tag(topology, str(one.get("tag") or ""))]
    if len(own) > 1:
        ids = ", ".join(one["id"] for one in own)
        raise UserError(f"{len(own)} load balancers are called {name}: {ids}: remove all but one")
    if named and not own and is_wanted(topology):
        raise UserError(
            f"load balancer {name} is in the account and not of topology {topology.name} (its tag is not"
            f" {account.make_tag(topology, 'edge')}): rename it there"
        )
    return own[0] if own else None


def _make_wanted(topology: Topology, region: str, haproxy: dict[str, Any]) -> dict[str, Any]:
    """Options of the load balancer, checked; UserError for a file of options that cannot be."""
    from saltext.digitalocean.utils.digitalocean import load_balancers
    from saltext.digitalocean.utils.digitalocean.options import OptionError

    given = account.read_settings("balancers").get("edge") or {}
    if own := [key for key in given if key in OWN]:
        raise UserError(f"{_WHERE}: {own[0]}: follows from the topology: take it out", 2)
    ports = (haproxy["frontend"]["http_port"], haproxy["frontend"]["https_port"])
    check = given.get("health_check") or {}
    try:
        options: dict[str, Any] = load_balancers.check(
            {
                **given,
                "name": f"{NAME}-{topology.name}",
                "region": region,
                "tag": account.make_tag(topology, "edge"),
                "forwarding_rules": [
                    {
                        "entry_protocol": "tcp",
                        "entry_port": entry,
                        "target_protocol": "tcp",
                        "target_port": port,
                    }
                    for entry, port in zip((80, 443), ports, strict=True)
                ],
                "health_check": {
                    **(check if isinstance(check, dict) else {"": check}),
                    "protocol": "http",
                    "port": haproxy["balancer"]["port"],
                    "path": haproxy["balancer"]["path"],
                },
                "enable_proxy_protocol": True,
            }
        )
    except OptionError as error:
        raise UserError(f"{_WHERE}: {error}", 2) from error
    seconds = options["health_check"].get("check_interval_seconds", 10)
    seconds *= options["health_check"].get("unhealthy_threshold", 5)
    if seconds > haproxy["balancer"]["leave_seconds"]:
        raise UserError(
            f"{_WHERE}: health_check: {seconds} s until an edge that stops gets nothing new, and haproxy:balancer:"
            f"leave_seconds is {haproxy['balancer']['leave_seconds']}: lower the one, or raise the other",
            2,
        )
    return options


def make_plan(api: Any, topology: Topology, region: str, haproxy: dict[str, Any]) -> Balancer:
    """What there is beside what should be."""
    there = find(api, topology)
    if not is_wanted(topology):
        return Balancer(there, None)
    from saltext.digitalocean.utils.digitalocean import load_balancers

    wanted = _make_wanted(topology, region, haproxy)
    differs: list[str] = []
    if there:
        network = account.find_network(api, topology)
        expected = {**wanted, **({"vpc_uuid": network["id"]} if network else {})}
        differs = [
            f"{key} is {_show(is_)}, should be {_show(should)}"
            for key, is_, should in load_balancers.differences(expected, there)
        ]
    return Balancer(there, wanted, tuple(differs))


def _show(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return ", ".join(f"{one.get('entry_port')} to {one.get('target_port')}" for one in value)
    return str(value)


def prices(balancer: Balancer) -> tuple[float, float]:
    """US dollars a month, now and afterwards."""
    from saltext.digitalocean.utils.digitalocean.load_balancers import monthly_price

    now = float(monthly_price(balancer.there)) if balancer.there else 0.0
    return now, float(monthly_price(balancer.wanted)) if balancer.wanted else 0.0


def describe(balancer: Balancer) -> list[str]:
    """Lines of a plan."""
    if balancer.is_gone:
        assert balancer.there
        return [f"- destroy  load balancer {balancer.there['name']}: not in the topology"]
    if not balancer.wanted:
        return []
    from saltext.digitalocean.utils.digitalocean.load_balancers import monthly_price

    wanted = balancer.wanted
    name, check = wanted["name"], wanted["health_check"]
    if not balancer.there or balancer.is_broken:
        nodes = int(wanted.get("size_unit") or 1)
        word = "create " if not balancer.there else "replace"
        why = "" if not balancer.there else "; its creation had failed"
        return [
            f"+ {word}  load balancer {name}: {nodes} node{'s' if nodes > 1 else ''} in {wanted['region']},"
            f" tcp 80 and 443 with the PROXY protocol, asks port {check['port']} for {check['path']},"
            f" ${monthly_price(wanted):.2f} a month{why}"
        ]
    if balancer.differs:
        return [f"~ change   load balancer {name}: {'; '.join(balancer.differs)}"]
    return [f"= keep     load balancer {name} at {balancer.there.get('ip') or 'no address yet'}"]


def ensure(api: Any, topology: Topology, balancer: Balancer) -> dict[str, Any] | None:
    """The load balancer as it should be, active; None where none is wanted."""
    if not balancer.wanted:
        return None
    from saltext.digitalocean.utils.digitalocean import load_balancers

    network = account.find_network(api, topology)
    options = {**balancer.wanted, **({"vpc_uuid": network["id"]} if network else {})}
    result: dict[str, Any] = load_balancers.ensure(api, options, poll=account.LOOK)
    return result


def remove(api: Any, balancer: dict[str, Any]) -> None:
    from saltext.digitalocean.utils.digitalocean import load_balancers

    load_balancers.remove(api, balancer["id"], poll=account.LOOK)
    print(f"destroyed load balancer {balancer['name']}", flush=True)
