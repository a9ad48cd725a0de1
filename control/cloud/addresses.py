"""
A topology that is up in the cloud, as this checkout knows it: the addresses that its machines got there, how
they are reached, and which commands are for it.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from .. import local_state, shell
from ..errors import OperationError, UserError
from ..topology import FOLDER, Topology
from . import account

# The account that a host of containers lets in: Fedora CoreOS' own (control/containers/ignition.py).
LOGIN = "core"


def refuse_lab(topology: Topology) -> None:
    """UserError when the topology is up in the lab: the cloud's commands would forget those machines."""
    note = local_state.folder(topology) / "provider"
    if note.exists() and note.read_text(encoding="utf-8").strip() != account.PROVIDER:
        raise UserError(
            f"topology {topology.name} is up in the lab of this checkout: 'make down"
            f" TOPOLOGY={topology.name}' first, or use another checkout"
        )


def refuse_cloud(topology: Topology, down: bool = False) -> None:
    """UserError when the topology is in the cloud: the lab's commands would only forget it. What to do
    instead never destroys, unless that is what was asked for (``down``)."""
    if not is_cloud(topology):
        return
    command = f"'make cloud-{'down' if down else 'up'} TOPOLOGY={topology.name}'"
    does = "lists what it would destroy there, and asks"
    if not down:
        does = "makes what is missing there, starts what is off, and converges it"
    raise UserError(f"topology {topology.name} is on DigitalOcean, and paid: {command} {does}")


def is_cloud(topology: Topology) -> bool:
    """Whether this checkout has the topology in the cloud."""
    note = local_state.folder(topology) / "provider"
    return note.exists() and note.read_text(encoding="utf-8").strip() == account.PROVIDER


def archive_state(topology: Topology) -> None:
    """Forget the machines, but not the secrets: one of them is all that opens the backups."""
    if not is_cloud(topology):
        return
    folder = local_state.folder(topology)
    secrets = folder / "secrets"
    if secrets.exists():
        kept = folder.with_name(f"{folder.name}.removed-{time.strftime('%Y%m%dT%H%M%S')}")
        kept.mkdir(mode=0o700)
        secrets.rename(kept / secrets.name)
        print(
            f"its secrets, with the key that opens its backups, are kept in {kept / secrets.name}:"
            " remove them when no backup is needed any more"
        )
    shutil.rmtree(folder)


def read_for_cloud(topology: Topology, balancer: str | None = None) -> dict[str, Any]:
    """
    The topology's file as it holds in a cloud, whose network carries no floating address: of several edges clients use a
    load balancer, whose address is ``balancer`` once it is known. Addresses are still the file's.
    """
    data: dict[str, Any] = yaml.safe_load(
        (FOLDER / f"{topology.name}.yaml").read_text(encoding="utf-8")
    )
    data.pop("floating_address", None)
    if len(topology.with_role("edge")) > 1:
        # 192.0.2.0/24 is nobody's (RFC 5737).
        data["balancer"] = {"address": balancer or "192.0.2.1", "from": [data["network"]]}
    return data


def write_access(
    topology: Topology,
    droplets: dict[str, dict[str, Any]],
    new: Sequence[str] = (),
    balancer: str | None = None,
) -> None:
    """
    What every other command needs to reach the machines: the ssh configuration and the topology
    with the addresses that the cloud gave, both in ``.lab/TOPOLOGY``. ``new``: droplets that were
    just made, whose addresses may have been others' before. ``balancer``: address of the load balancer.
    """
    folder = local_state.folder(topology)
    folder.mkdir(parents=True, exist_ok=True)
    data = read_for_cloud(topology, balancer)
    blocks = []
    login = LOGIN if topology.has_containers else account.provider_settings()["ssh_username"]
    for machine in topology.machines:
        droplet = droplets[account.droplet_name(topology, machine)]
        public, private = account.find_address(droplet), account.find_address(droplet, "private")
        if not public or not private:
            raise OperationError(
                f"{droplet['name']} has no address: see the control panel, then run it again"
            )
        data["machines"][machine]["address"] = private
        data["machines"][machine]["public"] = public
        data["machines"][machine]["cpus"] = droplet["vcpus"]
        if droplet["name"] in new and (folder / "known_hosts").exists():
            shell.run(["ssh-keygen", "-q", "-R", public, "-f", str(folder / "known_hosts")])
        blocks.append(f"Host {machine}\n  HostName {public}\n  User {login}\n")
    data["network"] = _find_range(droplets, [one["address"] for one in data["machines"].values()])
    if "balancer" in data:
        # It reaches droplets in its own network there.
        data["balancer"]["from"] = [data["network"]]
    # The lab's host is nobody there; other trusted clients are the operator's own.
    trusted = [one for one in data.pop("trusted", ()) if one != topology.gateway]
    if trusted:
        data["trusted"] = trusted
    (folder / "cloud.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    (folder / "provider").write_text(f"{account.PROVIDER}\n", encoding="utf-8")
    # Those that came from another controller (control/controller_state.py) open what it made.
    imported = sorted((folder / "keys").glob("*"))
    if topology.has_containers:
        imported.append(folder / "secrets" / "login")
    common = local_state.common_ssh_options(
        *(f"IdentityFile {key}" for key in imported),
        *account.ssh_options(),
        f"UserKnownHostsFile {folder / 'known_hosts'}",
    )
    (folder / "ssh_config").write_text("\n".join([*blocks, common]), encoding="utf-8")


def _find_range(droplets: dict[str, dict[str, Any]], addresses: list[str]) -> str:
    """The private network that the machines are in."""
    ranges = {
        address["id"]: address.get("ip_range") for address in account.connect().all("vpcs", "vpcs")
    }
    for droplet in droplets.values():
        network = ipaddress.IPv4Network(ranges.get(droplet.get("vpc_uuid")) or "0.0.0.0/32")
        if all(ipaddress.IPv4Address(address) in network for address in addresses):
            return str(network)
    # A network that the token may not read: as much of it as the addresses show.
    return str(ipaddress.IPv4Network(f"{addresses[0]}/24", strict=False))


def carried_file(topology: Topology) -> Path:
    """The topology's file as its machines get it: with the cloud's addresses where it is up there."""
    path = local_state.folder(topology) / "cloud.yaml"
    return path if path.exists() else FOLDER / f"{topology.name}.yaml"


def resolve(topology: Topology) -> Topology:
    """The topology with the addresses that the cloud gave, where it is up in the cloud."""
    path = local_state.folder(topology) / "cloud.yaml"
    return read_topology(path, topology) if path.exists() else topology


def warn_of_changed_topology(topology: Topology) -> None:
    """Say so, on stderr, when the topology's file has changed since cloud-up: machines still get what
    was true then."""
    path = local_state.folder(topology) / "cloud.yaml"
    if not path.exists():
        return

    def plain(data: dict[str, Any]) -> dict[str, Any]:
        own = ("address", "public", "cpus")
        machines = {
            name: {key: value for key, value in one.items() if key not in own}
            for name, one in data["machines"].items()
        }
        trusted = [one for one in data.get("trusted", ()) if one != _written_gateway(data)]
        return {
            **data,
            "machines": machines,
            "network": None,
            "trusted": trusted,
            "balancer": "balancer" in data,
        }

    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    written = read_for_cloud(topology)
    if plain(given) != plain(written):
        print(
            f"pillar/topologies/{topology.name}.yaml has changed since 'make cloud-up': what it says now"
            f" comes with 'make cloud-up TOPOLOGY={topology.name}'",
            file=sys.stderr,
        )


def _written_gateway(data: dict[str, Any]) -> str:
    return str(next(ipaddress.IPv4Network(data["network"]).hosts()))


def read_topology(path: Path, topology: Topology) -> Topology:
    """``topology`` with the addresses of the file at ``path``."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    machines = {
        name: dataclasses.replace(
            machine,
            address=data["machines"][name]["address"],
            public=data["machines"][name].get("public"),
        )
        for name, machine in topology.machines.items()
        if name in data["machines"]
    }
    return dataclasses.replace(
        topology,
        machines=machines,
        network=ipaddress.IPv4Network(data["network"]),
        floating_address=None,
        balancer=(data.get("balancer") or {}).get("address"),
    )


def read_public_address(topology: Topology) -> str | None:
    """The address of the edge that clients use, where the topology is up in the cloud."""
    path = local_state.folder(topology) / "cloud.yaml"
    if not path.exists():
        return None
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    return str(data["machines"][topology.edge.name]["public"])
