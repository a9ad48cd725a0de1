"""The network and the names of the machines that this checkout's tests make.

Two checkouts can test on one host at a time: each run holds one of eight networks, 192.168.56.0/24
to 192.168.63.0/24 (what VirtualBox allows for host-only networks), by a lock that the kernel
releases however the run ends. In the first network the topologies have their plain names, so that
`make test` uses the machine of `make up`; in another they carry its number (``dev-57``).
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import yaml

from control import local_state
from control.lab import containers
from control.paths import ROOT
from control.topology import FOLDER

FIRST = 56
# Last octets of the addresses that each topology of the tests may take, no two with one in common: their machines
# are there at the same time. The first is the network's gateway; from 200 on are outsiders (lab_machine.Outsider).
OCTETS = {
    "dev": range(10, 11),
    "dev12": range(12, 13),
    "devb": range(13, 14),
    "devc": range(14, 15),
    "pods": range(16, 17),
    "five": range(71, 77),
    "edges": range(80, 84),
    "balanced": range(84, 88),
    "stores": range(88, 91),
    "three": range(91, 94),
    "droplet": range(94, 95),
    "images": range(95, 96),
    "lifted": range(96, 97),
    "rehearsal": range(100, 116),
}
_VARIABLE = "TEST_NETWORK"
# First line of a topology that a run wrote; one that was killed leaves it, the next writes it anew.
MADE = "# Made by a test.\n"
_held: list[IO[str]] = []


def used_by_another_checkout(number: int) -> bool:
    """Whether another checkout, which is still there, has machines in this network."""
    return any(
        claim.checkout != ROOT
        and claim.is_in_force
        and claim.address.startswith(f"192.168.{number}.")
        for claim in containers.read_owners().values()
    )


def lease() -> None:
    """Take a network for this run, unless the process that started this one has."""
    if _VARIABLE in os.environ or _held:
        return
    folder = local_state.CACHE / "networks"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(FIRST, FIRST + 8):
        handle = hold(number)
        if handle is None:
            continue
        if used_by_another_checkout(number):
            handle.close()
            continue
        _held.append(handle)
        os.environ[_VARIABLE] = str(number)
        return
    raise RuntimeError(f"all eight test networks are in use: see {folder}")


def left_behind(marks: Iterable[Path]) -> list[str]:
    """
    Topologies whose machines a killed run of this checkout has left, in whatever state its test had brought them to.
    ``marks``: ``.lab/TOPOLOGY/made-by-tests``. One whose network another run holds may be that run's, which goes on.
    """
    names = sorted(mark.parent.name for mark in marks)
    return [name for name in names if number_of(name) == number() or is_free(number_of(name))]


def number_of(topology: str) -> int:
    """Third octet of the network of machines with that topology's name."""
    found = re.fullmatch(r".+-(\d+)", topology)
    return int(found[1]) if found else FIRST


def is_free(network: int) -> bool:
    """Whether no run holds the network with that third octet."""
    if handle := hold(network):
        handle.close()
    return handle is not None


def hold(network: int) -> IO[str] | None:
    """The network with that third octet, held until this is closed; None: another run has it."""
    handle = open(local_state.CACHE / "networks" / str(network), "w", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle


def number() -> int:
    """Third octet of this run's network."""
    return int(os.environ.get(_VARIABLE, FIRST))


def with_octet(last: int) -> str:
    """Address with this last octet in this run's network."""
    return f"192.168.{number()}.{last}"


def address(topology: str, index: int = 0) -> str:
    """The address with this number of those that are the topology's (its plain name) in this run's network."""
    return with_octet(OCTETS[topology][index])


def outsider(number: int) -> int:
    """Last octet of this worker's (0, 1, …; workers run side by side) outsider of that number, from 0 to 9."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return 200 + 10 * worker + number


def named(topology: str) -> str:
    """What the topology is called in this run's network."""
    return topology if number() == FIRST else f"{topology}-{number()}"


def write(topology: str, machines: dict[str, dict[str, Any]], **more: Any) -> Path:
    """Write a topology of this run (``topology`` as :func:`named` says) and return its file."""
    data: dict[str, Any] = {"name": topology, "domain": "counter.test", "default": "counter"}
    data |= {
        "network": f"192.168.{number()}.0/24",
        "trusted": [with_octet(1)],
        "machines": machines,
    }
    path = FOLDER / f"{topology}.yaml"
    path.write_text(
        MADE + yaml.safe_dump({**data, **more}, default_flow_style=None), encoding="utf-8"
    )
    return path


def settings(topology: str) -> Path:
    """The file of a topology's own settings."""
    return FOLDER.parent / "settings" / f"{topology}.sls"


def remove(path: Path) -> None:
    """Remove a topology's file, and settings that a test gave it, unless its machines are still there, because a run was
    interrupted twice: `make down` and the next run find them by it."""
    if not (ROOT / ".lab" / path.stem).exists():
        path.unlink()
        settings(path.stem).unlink(missing_ok=True)


def remove_made() -> None:
    """Remove the topologies of a run that was killed, whose machines are gone since."""
    for path in FOLDER.glob("*.yaml"):
        if path.read_text(encoding="utf-8").startswith(MADE):
            remove(path)
