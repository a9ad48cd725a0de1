"""
Making what a topology lacks on DigitalOcean, and converging it.

The machines are made by salt-cloud with the driver of cloud/saltext-digitalocean, from a map that
is made from the topology (control/cloud/salt_cloud.py); then they are converged as any others, over ssh.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from .. import apply, local_state, stores
from ..confirmation import confirm
from ..credentials import shared_secrets
from ..errors import OperationError, UserError
from ..options import Options
from ..topology import ROLES, Topology
from . import account, addresses, firewalls, login, plan, salt_cloud
from .plan import Plan


def up(topology: Topology, options: Options) -> int:
    """Make what is missing, then converge it all; the exit code."""
    addresses.refuse_lab(topology)
    with account.report_api_errors():
        return _up(topology, options)


def _up(topology: Topology, options: Options) -> int:
    api = account.connect()
    todo = plan.make_plan(api, topology)
    print(plan.describe(topology, todo), flush=True)
    gone = [one["name"].removeprefix(f"{topology.name}-") for one in todo.gone]
    if gone and todo.create and todo.keep:
        # As in the lab (converge.refuse_add_and_remove): who is to go first, nobody knows.
        raise UserError(
            f"topology {topology.name} has lost {', '.join(gone)} and gained"
            f" {', '.join(one.machine for one in todo.create)}: first add (leave {', '.join(gone)} in"
            " it), 'make cloud-up', then take away and 'make cloud-up' again"
        )
    tag = account.make_tag(topology, "store")
    there = [*todo.gone, *(droplet for _, droplet in todo.keep)]
    stores.refuse_one_of_several(topology, sum(tag in one.get("tags", []) for one in there))
    if todo.keep and not addresses.is_cloud(topology):
        names = ", ".join(droplet["name"] for _, droplet in todo.keep)
        raise UserError(
            f"{names}: made from another checkout, and nothing here opens them: {local_state.import_hint(topology)};"
            " nothing was changed"
        )
    if todo.gone:
        names = ",".join(one["name"] for one in todo.gone)
        confirm(f"destroy {names}, and all that is on them", names, options.yes)
    account.ensure_key()
    # From here on it is this checkout's, also when this is interrupted.
    local_state.folder(topology).mkdir(parents=True, exist_ok=True)
    (local_state.folder(topology) / "provider").write_text(
        f"{account.PROVIDER}\n", encoding="utf-8"
    )
    ensure_network_and_firewalls(api, topology, todo)
    _start_droplets(api, topology, todo.off)
    if todo.create:
        if not todo.keep:
            shared_secrets.make_authority(topology)
        salt_cloud.make_droplets(topology, todo)
    droplets = {one["name"]: one for one in wait_until_listed(api, topology)}
    missing = [one.name for one in plan.list_wanted(topology) if one.name not in droplets]
    if missing:
        raise OperationError(
            f"{', '.join(missing)}: not there after salt-cloud said so: run it again"
        )
    addresses.write_access(topology, droplets, [one.name for one in todo.create])
    login.wait_for_login(addresses.resolve(topology))
    code = apply.apply(addresses.resolve(topology), options, gone)
    if code:
        raise OperationError(
            f"the droplets are there, and paid, but not converged: mend the above, then 'make apply"
            f" TOPOLOGY={topology.name}'",
            code,
        )
    for one in todo.gone:
        api.remove_with_address(one, account.PATIENCE, account.LOOK)
        print(f"destroyed {one['name']}", flush=True)
    for name in gone:
        shared_secrets.delete_machine_keys(topology, name)
    # Only now, that all is converged: until here it had what either role needs.
    for droplet, _, drop in todo.retag:
        _retag(api, "unassign_resources", droplet, drop)
    for firewall in todo.firewalls_gone:
        api.call("firewalls", "delete", firewall["id"])
    return 0


def _retag(api: Any, how: str, droplet: dict[str, Any], tags: Sequence[str]) -> None:
    for tag in tags:
        resource = {"resource_id": str(droplet["id"]), "resource_type": "droplet"}
        api.call("tags", how, tag, {"resources": [resource]})


def wait_until_listed(api: Any, topology: Topology) -> list[dict[str, Any]]:
    """The topology's droplets once lists know all of them: they lag behind."""
    names = {droplet.name for droplet in plan.list_wanted(topology)}
    deadline = time.monotonic() + 30
    while True:
        droplets = account.list_droplets(api, topology)
        if names <= {droplet["name"] for droplet in droplets} or time.monotonic() > deadline:
            return droplets
        time.sleep(account.LOOK)


def _start_droplets(api: Any, topology: Topology, off: Sequence[dict[str, Any]]) -> None:
    """Switch droplets on, and return once all of them are."""
    names = {droplet["name"] for droplet in off}
    for droplet in off:
        print(f"starting {droplet['name']}", flush=True)
        api.act(droplet["id"], "power_on", repeat=True)
    deadline = time.monotonic() + account.PATIENCE
    while left := sorted(
        droplet["name"]
        for droplet in (account.list_droplets(api, topology) if names else ())
        if droplet["name"] in names and droplet["status"] != "active"
    ):
        if time.monotonic() > deadline:
            raise OperationError(
                f"{', '.join(left)}: still off after {account.PATIENCE} s: see the control panel, then 'make"
                f" cloud-up TOPOLOGY={topology.name}' again"
            )
        time.sleep(account.LOOK)


def ensure_network_and_firewalls(api: Any, topology: Topology, todo: Plan) -> None:
    """Network, key, tags and firewalls, before any machine is there to need them."""
    if todo.create:
        api.give_key(account.KEY.with_suffix(".pub").read_text(encoding="utf-8").strip())
    if todo.network_new:
        region, _, _ = plan.find_offer(api, (todo.create or plan.list_wanted(topology))[0])
        body = {"name": account.network_name(topology), "region": region}

        def find() -> dict[str, Any] | None:
            network = account.find_network(api, topology)
            return {"vpc": network} if network else None

        api.call("vpcs", "create", body, found=find, key="vpc")
    # A rule may only name tags that exist; a tag that exists is no error.
    for tag in sorted(
        {tag for one in plan.list_wanted(topology) for tag in one.tags}
        | {account.make_tag(topology, role) for role in ROLES}
    ):
        api.call("tags", "create", {"name": tag}, repeat=True)
    for firewall in todo.firewalls_new:
        firewalls.create(api, firewall)
    for identity, firewall in todo.firewalls_changed:
        api.call("firewalls", "update", identity, firewall)
    for droplet, add, _ in todo.retag:
        _retag(api, "assign_resources", droplet, add)
