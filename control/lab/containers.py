"""The lab's lxc containers on this computer, and which checkout made each."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import local_state, shell
from ..errors import OperationError, UserError
from ..paths import ROOT
from ..topology import Topology

# Where lxc keeps them.
TREES = "/var/lib/lxc"


def destroy(container: str) -> None:
    shell.run(
        shell.sudo([str(ROOT / "lab" / "enter"), "lxc-destroy", "--force", "--name", container])
    )


def power_off(topology: Topology, machines: Iterable[str]) -> None:
    """
    End those that this checkout has made and that are about to be removed. Vagrant shuts each down in good order first:
    services drain, masters move, a minute and more for nothing.
    """
    owners = read_owners()
    for machine in machines:
        owner = owners.get(container := container_name(topology, machine))
        if owner and owner.checkout == ROOT:
            line = [str(ROOT / "lab" / "enter"), "lxc-stop", "--kill", "--name", container]
            # One that is off already, or was never made, is none to end.
            subprocess.run(shell.sudo(line), capture_output=True, check=False)


def container_name(topology: Topology, machine: str) -> str:
    """Name of a machine's container on this host. No topology's and no machine's name has a ``_``,
    so that machine ``eu-web1`` of topology ``bz`` is never ``web1`` of ``bz-eu``."""
    return f"counter_{topology.name}_{machine}"


def list_containers() -> list[str]:
    """Names of the lab's containers on this host, whichever checkout made them."""
    listed = subprocess.run(
        shell.sudo(["lxc-ls", "-1"]), capture_output=True, text=True, check=False
    )
    if listed.returncode:
        raise OperationError(
            f"lxc-ls failed, so nothing is known of the machines: {listed.stderr.strip()}"
        )
    return [name for name in listed.stdout.split() if name.startswith(("counter_", "counter-"))]


@dataclass(frozen=True)
class Owner:
    """Who made a container on this host: a checkout, for a topology's machine at an address."""

    checkout: Path
    topology: str
    machine: str
    address: str

    @property
    def is_in_force(self) -> bool:
        """Whether the checkout is still there and still has machines of that topology."""
        return (self.checkout / ".lab" / self.topology).exists()

    @property
    def is_another(self) -> bool:
        """Whether it is another checkout than this one, and in force: what it has made is not ours to remove."""
        return self.checkout != ROOT and self.is_in_force


def owner_file(container: str) -> Path:
    """File that says whose a container is; all checkouts of this user share the folder."""
    return local_state.CACHE / "machines" / container


def read_owners() -> dict[str, Owner]:
    """``{container: claim}`` of all checkouts on this host."""
    owners = {}
    for note in sorted((local_state.CACHE / "machines").glob("counter_*_*")):
        _, topology, machine = note.name.split("_")
        checkout, address = (*note.read_text(encoding="utf-8").splitlines(), "", "")[:2]
        owners[note.name] = Owner(Path(checkout), topology, machine, address)
    return owners


def is_configured(container: str) -> bool:
    """Whether it was ever configured, and so may have data that nobody else has."""
    # A link of the machine's own: it leads nowhere on this computer.
    tree = f"{TREES}/{container}/rootfs/srv/stack"
    return not subprocess.run(shell.sudo(["test", "-L", tree]), check=False).returncode


def of_others(topology: Topology) -> list[str]:
    """A line for each container of these machines that is not this checkout's to remove."""
    owners, lines = read_owners(), []
    names = [container_name(topology, name) for name in topology.machines]
    for container in set(names) & set(list_containers()):
        owner = owners.get(container)
        if owner is None or owner.is_another:
            lines.append(f"{container}, which {owner.checkout if owner else 'somebody else'} made")
    return sorted(lines)


def list_left(topology: Topology) -> list[str]:
    """Containers of these machines that no checkout knows any more, where it is gone or has lost its ``.lab``."""
    owners = read_owners()
    names = [container_name(topology, name) for name in topology.machines]
    ours = [name for name in names if name in owners and not owners[name].is_in_force]
    return [name for name in list_containers() if name in ours] if ours else []


def list_pending() -> list[str]:
    """Containers that a checkout has claimed and may be making right now."""
    return [container for container, claim in read_owners().items() if claim.is_in_force]


def take_ownership(topology: Topology) -> None:
    """
    Make sure that the machines to be are ours: a container left half-made by an interrupted run of this
    checkout, or of one that is gone, is removed; one of another checkout, or that has served, is named and left.

    UserError, before anything is made, when a machine of another topology has one of the addresses.
    """
    existing, known = list_containers(), read_owners()
    ours = {container_name(topology, name): machine for name, machine in topology.machines.items()}
    addresses = {machine.address: name for name, machine in topology.machines.items()}
    for container, other in known.items():
        # Also where its container is only about to be made.
        if container not in ours and other.address in addresses and other.is_in_force:
            raise UserError(
                f"{topology.name}: machine {addresses[other.address]} has address {other.address},"
                f" which machine {other.machine} of topology {other.topology} uses on this host:"
                f" 'make down TOPOLOGY={other.topology}' in {other.checkout}, or another address in"
                f" pillar/topologies/{topology.name}.yaml"
            )
    # Without it no claim is in force.
    local_state.folder(topology).mkdir(parents=True, exist_ok=True)
    for container, machine in ours.items():
        owner = known.get(container)
        made = local_state.folder(topology) / "vagrant" / "machines" / machine.name / "lxc" / "id"
        if container in existing and not made.exists():
            if owner is None:
                # A note is written before the first container: this one is somebody else's.
                raise UserError(
                    f"machine {container} is there but was not made by you: whoever made it runs"
                    f" 'make down TOPOLOGY={topology.name}', or remove it with lxc-destroy"
                )
            if owner.is_another:
                raise UserError(
                    f"machine {container} runs already, for the checkout in {owner.checkout}:"
                    f" 'make down TOPOLOGY={topology.name}' there first"
                )
            if is_configured(container):
                way = (
                    "this checkout reaches it already: 'make apply' configures it"
                    if local_state.is_up(topology)
                    else local_state.import_hint(topology)
                )
                raise UserError(
                    f"machine {container} is there and may have data, nothing was changed: {way}; or"
                    f" 'make down TOPOLOGY={topology.name}' removes it, with its data"
                )
            shell.say(f"removing {container}, left half-made by an interrupted run")
            destroy(container)
        owner_file(container).parent.mkdir(parents=True, exist_ok=True)
        owner_file(container).write_text(f"{ROOT}\n{machine.address}\n", encoding="utf-8")
