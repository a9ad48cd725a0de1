"""Removing a topology from DigitalOcean, whole, and nothing that is not its own."""

from __future__ import annotations

import time
from typing import Any

from ..application import NAME
from ..confirmation import confirm
from ..errors import OperationError, UserError
from ..options import Options
from ..topology import Topology
from . import account, addresses, firewalls, plan

# Seconds for a private network to learn that its machines have gone.
MEMBERS = 60
DEFAULT_STAYS = (
    "it is the default of its region, which DigitalOcean never deletes; it costs nothing"
)


def down(topology: Topology, options: Options) -> int:
    """Show what there is and what it costs, ask, and remove it; the exit code."""
    with account.report_api_errors():
        return _down(topology, options)


def _down(topology: Topology, options: Options) -> int:
    api = account.connect()
    droplets, shields = account.list_droplets(api, topology), firewalls.list_own(api, topology)
    network = account.find_network(api, topology)
    # The first of a region is its default, which the API never deletes.
    stays = DEFAULT_STAYS if network and network.get("default") else ""
    tags = [
        one["name"] for one in api.all("tags", "tags") if account.is_own_tag(topology, one["name"])
    ]
    if not (droplets or shields or tags or (network and not stays)):
        # Its network alone says that this is the account.
        if addresses.is_cloud(topology) and not stays and not options.force:
            raise UserError(
                f"nothing of topology {topology.name} is in this account, but this checkout has made it on"
                " DigitalOcean: is the token another account's? FORCE=1 forgets it"
            )
        addresses.archive_state(topology)
        but = f" but private network {account.network_name(topology)}: {stays}" if stays else ""
        print(f"nothing of topology {topology.name} is on DigitalOcean{but}")
        return 0
    policies = plan.read_backup_policies(api, droplets)
    price = sum(plan.monthly_price(one["size"], policies.get(one["id"])) for one in droplets)
    for one in droplets:
        print(
            f"- destroy  droplet {one['name']} at {account.find_address(one) or 'no address'}, and all that is on it"
        )
    for name in shields:
        print(f"- destroy  firewall {name}")
    if network:
        print(
            f"= keep     private network {network['name']}: {stays}"
            if stays
            else f"- destroy  private network {network['name']}"
        )
    print(f"${price:.2f} a month now, $0.00 afterwards", flush=True)
    if droplets or shields or (network and not stays):
        action = f"destroy topology {topology.name} on DigitalOcean, and all that is on it"
        confirm(action, topology.name, options.yes)
    # What lists did not know yet, too.
    deadline = time.monotonic() + account.PATIENCE
    while droplets:
        for one in droplets:
            api.remove_with_address(one, account.PATIENCE, account.LOOK)
            print(f"destroyed {one['name']}", flush=True)
        droplets = account.wait_until_list_stable(api, topology)
        if droplets and time.monotonic() > deadline:
            names = ", ".join(one["name"] for one in droplets)
            raise OperationError(f"{names}: still there, and paid: run it again")
    for firewall in shields.values():
        account.delete_ignoring_404(api, "firewalls", firewall["id"])
    if network and not stays:
        stays = _remove_network(api, network)
    for tag in tags:
        account.delete_ignoring_404(api, "tags", tag)
    if not api.droplets(tag=NAME):
        # Nobody else's either: other topologies and single droplets have it too.
        account.delete_ignoring_404(api, "tags", NAME)
    _remove_key(api)
    addresses.archive_state(topology)
    but = f" but private network {account.network_name(topology)}: {stays}" if stays else ""
    print(f"nothing of topology {topology.name} is left on DigitalOcean{but}")
    return 0


def _remove_network(api: Any, network: dict[str, Any]) -> str:
    """Empty once it has gone, else why it stays. It counts a machine for a while after that has gone,
    and is refused until then: 409, or 403."""
    from saltext.digitalocean.utils.digitalocean.api import ApiError

    deadline = time.monotonic() + MEMBERS
    while True:
        try:
            account.delete_ignoring_404(api, "vpcs", network["id"])
            return ""
        except ApiError as error:
            if error.status == 403 and "default" in error.message.lower():
                return DEFAULT_STAYS
            if error.status not in (403, 409):
                raise
            if time.monotonic() > deadline:
                members = api.all("vpcs", "members", method="list_members", vpc_id=network["id"])
                if not members:
                    raise
                urns = ", ".join(str(member.get("urn") or member.get("name")) for member in members)
                return f"others are in it ({urns}); it costs nothing"
            time.sleep(account.LOOK)


def _remove_key(api: Any) -> None:
    """This checkout's public key, which only the making of droplets needs."""
    try:
        own = account.KEY.with_suffix(".pub").read_text(encoding="utf-8").split()[1]
    except (OSError, IndexError):
        return
    for key in api.kept("ssh_keys"):
        if key["public_key"].split()[1:2] == [own]:
            account.delete_ignoring_404(api, "ssh_keys", key["id"])
