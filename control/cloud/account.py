"""
The account at DigitalOcean: its API, and how what is a topology's is named and found there: by its tag
(``counter:NAME``), never by memory: the account is the truth.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from .. import shell
from ..application import NAME
from ..by_path import load_yaml
from ..errors import OperationError, UserError
from ..paths import ROOT
from ..topology import Machine, Topology

STATE = ROOT / ".lab" / "cloud"
KEY = OWN_KEY = STATE / "id_ed25519"
PROVIDER = "digitalocean"
# Seconds for one droplet to start or to go.
PATIENCE = 300
# Seconds between two looks at a list, which lags behind what was done.
LOOK = 2.0


def connect() -> Any:
    """The API of the configured account; UserError when the token or a package is missing."""
    try:
        from saltext.digitalocean.utils.digitalocean.api import Api, NoToken, find_token
    except ImportError as error:
        raise UserError(f"{error}: run it through make, such as 'make cloud-plan'", 2) from error
    settings = check_settings(provider_settings(), f"cloud/cloud.providers.d: {PROVIDER}")
    try:
        token = find_token(settings.get("personal_access_token"), settings.get("token_command"))
    except NoToken as error:
        raise UserError(f"{error} (docs/cloud.md)", 2) from error
    return Api(
        token,
        endpoint=settings.get("api_endpoint"),
        ca_file=settings.get("api_ca_file"),
        patience=float(settings.get("api_patience", 300)),
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )


@contextlib.contextmanager
def report_api_errors() -> Iterator[None]:
    """What the API refuses in here is an OperationError, in one line."""
    refusals: tuple[type[Exception], ...] = ()
    with contextlib.suppress(ImportError):
        from saltext.digitalocean.utils.digitalocean.api import ApiError, StillThere
        from saltext.digitalocean.utils.digitalocean.options import OptionError

        refusals = (ApiError, StillThere, OptionError)
    try:
        yield
    except refusals as error:
        raise OperationError(str(error)) from error


def check_settings(settings: dict[str, Any], path: str) -> dict[str, Any]:
    """Settings as the driver reads them; UserError, with the path, where there is no such setting."""
    from saltext.digitalocean.utils.digitalocean.options import OptionError, backup_policy, checked

    try:
        known: dict[str, Any] = checked(settings)
        return {**known, "backup_policy": backup_policy(known)}
    except OptionError as error:
        raise UserError(f"{path}: {error}", 2) from error


def provider_settings() -> dict[str, Any]:
    """What cloud/cloud.providers.d says of the account."""
    return dict(read_settings("providers")[PROVIDER])


def read_settings(kind: str) -> dict[str, Any]:
    """``{name: settings}`` of salt-cloud's ``providers`` or ``profiles``."""
    settings: dict[str, Any] = {}
    for path in sorted((ROOT / "cloud" / f"cloud.{kind}.d").glob("*.conf")):
        settings |= load_yaml(path) or {}
    return settings


def droplet_name(topology: Topology, machine: str) -> str:
    """Unique in the account, for the account may hold several topologies."""
    return machine if machine == topology.name else f"{topology.name}-{machine}"


def join_roles(machine: Machine) -> str:
    """Its roles in one word."""
    return "-".join(sorted(set(machine.roles)))


def make_tag(topology: Topology, *more: str) -> str:
    """Tag of what is the topology's: of all of it, or of what ``more`` names."""
    return ":".join((NAME, topology.name, *more))


def list_droplets(api: Any, topology: Topology) -> list[dict[str, Any]]:
    return list(api.droplets(tag=make_tag(topology)))


def network_name(topology: Topology) -> str:
    return f"{NAME}-{topology.name}"


def find_network(api: Any, topology: Topology) -> dict[str, Any] | None:
    name = network_name(topology)
    return next((vpc for vpc in api.all("vpcs", "vpcs") if vpc["name"] == name), None)


def is_own_tag(topology: Topology, tag: str) -> bool:
    return tag == make_tag(topology) or tag.startswith(make_tag(topology, ""))


def find_address(droplet: dict[str, Any], kind: str = "public") -> str | None:
    """IPv4 address of a droplet, ``public`` or ``private``; None while it has none."""
    addresses = droplet["networks"].get("v4") or []
    return next((one["ip_address"] for one in addresses if one["type"] == kind), None)


def wait_until_list_stable(api: Any, topology: Topology) -> list[dict[str, Any]]:
    """The topology's droplets once two looks see the same, a minute at most."""
    deadline = time.monotonic() + 60
    droplets = list_droplets(api, topology)
    while True:
        time.sleep(LOOK)
        before, droplets = droplets, list_droplets(api, topology)
        is_same = {one["id"] for one in before} == {one["id"] for one in droplets}
        if is_same or time.monotonic() > deadline:
            return droplets


def delete_ignoring_404(api: Any, group: str, identity: str) -> None:
    """Delete what may have gone already."""
    from saltext.digitalocean.utils.digitalocean.api import ApiError

    try:
        api.call(group, "delete", identity)
    except ApiError as error:
        if error.status != 404:
            raise


def ensure_key() -> None:
    """This checkout's ssh key, unless it is there."""
    STATE.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not KEY.exists():
        comment = f"{NAME}-{os.urandom(4).hex()}"
        shell.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(KEY)])


def ssh_options() -> list[str]:
    """Lines of ssh_config(5) with which droplets that were just made are reached."""
    return [
        f"IdentityFile {KEY}",
        "IdentitiesOnly yes",
        "StrictHostKeyChecking accept-new",
        "LogLevel ERROR",
        "ConnectTimeout 10",
    ]
