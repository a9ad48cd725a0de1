"""
What a host that runs containers is to have: rendered on the controller by the same Salt from the same formulas as
a machine's, for the host itself has no Salt and no Python.
"""

from __future__ import annotations

import base64
import functools
import json
import shlex
import shutil
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .. import application, atomic_file, paths, salt_copy
from ..application import NAME
from ..cloud import addresses
from ..credentials import given_secrets, shared_secrets
from ..errors import UserError
from ..paths import ROOT
from ..topology import Topology
from . import images

# The host's, not this computer's.
GRAINS = {"os": "Debian", "os_family": "Debian", "oscodename": "trixie"}
# Imported beside real Salt only (control/salt_copy.py).
PROGRAM = "control.containers.salt_program"
TEMPLATES = ROOT / "containers" / "host"
# Of each application.
APPLICATION = ROOT / "containers" / "application"
# Accounts of the host that containers run as, {name: number}: those of the images (containers/images/*.yaml).
ACCOUNTS = {
    "counter": 10001,
    "haproxy": 10002,
    "redis": 10003,
    "prometheus": 10004,
    "alertmanager": 10005,
    "stack-backup": 10009,
}
ASK = ("curl", "-qsS", "-f", "-o", "/dev/null", "-m", "3")
# Of applications beside the counter: by their names, so that none is moved by another.
FIRST_UID, UIDS = 11000, 20000


@dataclass(frozen=True)
class File:
    """A file of the host. ``secret``: handed over by ssh, never part of the Ignition file."""

    data: bytes
    mode: int = 0o644
    user: str = "root"
    group: str = "root"
    secret: bool = False


@dataclass(frozen=True)
class Host:
    """``files`` by path; ``links`` {path: where it leads}; ``units`` of systemd that are enabled; ``secrets`` by
    name; ``facts`` what Salt answered."""

    files: dict[str, File]
    links: dict[str, str]
    units: list[str]
    secrets: dict[str, str]
    facts: dict[str, Any] = field(repr=False)


def site_folder(topology: Topology) -> Path:
    """Where the controller keeps the site's certificate and the small CA that signed it."""
    return shared_secrets.folder(topology) / "site"


def refuse_several(topology: Topology) -> None:
    if len(topology.machines) > 1:
        raise UserError(
            f"topology {topology.name}: hosts that run containers come alone so far: one machine with"
            " every role (docs/containers.md)",
            2,
        )


def change_secret(topology: Topology, function: str, name: str) -> None:
    """``rotate`` or ``forget`` a secret of the host, which the controller keeps (salt/_modules/secret.py)."""
    (machine,) = topology.machines
    _ask_salt(topology, machine, [f"secret.{function}", [name], {}])


def _ask_salt(topology: Topology, host: str, question: list[Any] | None = None) -> Any:
    """Answer of Salt on the host's behalf; by default all that it renders."""
    place, site = shared_secrets.folder(topology), site_folder(topology)
    site.mkdir(exist_ok=True, mode=0o700)
    if not (place / "backup-identity").exists():
        # As on several machines; Salt would make it by age, which this computer need not have.
        atomic_file.write(place / "backup-identity", shared_secrets.MAKERS["age"]())
    with tempfile.TemporaryDirectory(prefix="container-host-") as folder:
        # The release is the roll's affair (stack-roll), and in none of these files.
        names = application.list_names(topology) or []
        others = {name: "0" for name in names if name != NAME}
        identity = {"topology": topology.name, "name": host, "release": "0", "releases": others}
        config = salt_copy.prepare(
            Path(folder, "tree"),
            identity,
            grains=GRAINS,
            grains_cache=False,
            secrets_folder=str(place),
            site_folder=str(site),
        )
        pillar = Path(folder, "tree", "pillar")
        shutil.copyfile(
            addresses.carried_file(topology), pillar / "topologies" / f"{topology.name}.yaml"
        )
        given = given_secrets.read_for(topology, topology.machine(host))
        if given:
            path = Path(folder, "tree", paths.SECRETS)
            atomic_file.write(path, yaml.safe_dump(given))
        everything = ["render host", [str(site)], {}]
        ((answer,),) = salt_copy.ask([config], [question or everything], PROGRAM)
    return answer


def _megabytes(size: str) -> float:
    """What Redis' own suffixes mean, in MiB."""
    units = {"kb": 2**-10, "mb": 1.0, "gb": 2.0**10}
    return float(size.rstrip("bgkm")) * units.get(size[-2:], 2**-20)


def limits(is_lab: bool, memory: float, processes: int) -> str:
    """podman's words for at most ``memory`` MiB, none of it swapped, and so many processes and threads; none in the lab."""
    if is_lab:
        return "# Without limits: the kernel gives a lab machine no controller for memory and processes."
    size = f"{memory:.0f}m"
    return f"PodmanArgs=--memory={size} --memory-swap={size} --pids-limit={processes}"


def render(topology: Topology, host: str, is_lab: bool | None = None) -> Host:
    """Everything of one host; UserError or OperationError, in Salt's words, for settings that are refused. ``is_lab``: its
    kernel may have no limits of memory and processes; by default as this checkout knows the topology."""
    refuse_several(topology)
    facts = _ask_salt(topology, host)
    site = site_folder(topology)
    files: dict[str, File] = {}
    for path, spec in facts["files"].items():
        spec["data"] = base64.b64decode(spec["data"])
        if Path(path).parent == site:
            # Kept for the next time; the key of the CA never leaves this folder.
            atomic_file.write(Path(path), spec["data"].decode())
            name = Path(path).name
            if name == "ca.key":
                continue
            path = f"/etc/stack/pki/{name}" if name == "ca.pem" else f"/etc/haproxy/tls/{name}"
            spec["secret"] = True
        files[path] = File(
            **{key: spec[key] for key in ("data", "mode", "user", "group", "secret")}
        )
    _name_accounts(facts["applications"])
    for app in facts["applications"]:
        for number, environment in app["environments"].items():
            text = "".join(f"{key}={value}\n" for key, value in sorted(environment.items()))
            files[f"/etc/stack/application/{app['name']}/{number}.env"] = File(text.encode())
        if not app["is_counter"]:
            facts["status"][app["name"]] = _status_of(app)
    files["/etc/stack/status.json"] = File(json.dumps(facts["status"], indent=1).encode())
    is_lab = not addresses.is_cloud(topology) if is_lab is None else is_lab
    return _add_templates(topology, host, facts, files, is_lab)


def _name_accounts(apps: list[dict[str, Any]]) -> None:
    """Each one's image and account; UserError for two whose accounts would be the same."""
    taken: dict[int, str] = {}
    for app in apps:
        name = app["name"]
        app["image"] = images.image_name(name)
        app["uid"] = ACCOUNTS[NAME]
        if not app["is_counter"]:
            app["uid"] = FIRST_UID + zlib.crc32(name.encode()) % UIDS
        if other := taken.get(app["uid"]):
            raise UserError(
                f"pillar apps:{name}: on hosts that run containers its account would be {other}'s: give it another name",
                2,
            )
        taken[app["uid"]] = name


def _status_of(app: dict[str, Any]) -> dict[str, Any]:
    """Its rows of the table of services, as salt/apps/status.yaml.j2 has them; there is nothing to ask before its first release."""
    return {
        f"{app['name']}@{number}": {
            "port": app["port"] + number - 1,
            "health": shlex.join(
                [*ASK, f"http://127.0.0.1:{app['port'] + number - 1}{app['ready']}"]
            ),
            "metric": None,
            "needs": f"/var/lib/stack/instances/{app['name']}/{number}.env",
        }
        for number in range(1, app["instances"] + 1)
    }


def _add_templates(
    topology: Topology, host: str, facts: dict[str, Any], files: dict[str, File], is_lab: bool
) -> Host:
    """With what is the host's own: containers/host, each file below the path that it has there."""
    # With Salt, which is installed where this is used.
    import jinja2

    values = {
        "machine": host,
        "topology": topology,
        "is_lab": is_lab,
        "limits": functools.partial(limits, is_lab),
        "accounts": ACCOUNTS,
        # By nftables' families.
        "trusted": {
            family: [one for one in facts["trusted"] if (":" in one) == (family == "6")]
            for family in ("4", "6")
        },
        "zone": facts["zone"],
        "secrets": sorted(facts["secrets"]),
        "applications": facts["applications"],
        "store_megabytes": _megabytes(facts["settings"]["redis"]["maxmemory"]),
        **facts["settings"],
    }
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        # None of what it writes is markup.
        autoescape=False,
    )
    environment.filters["quote"] = shlex.quote
    units = [
        Path(path).name
        for path, file in files.items()
        if path.startswith("/etc/systemd/system/") and b"\n[Install]\n" in file.data
    ]
    for source in sorted(path for path in TEMPLATES.rglob("*") if path.is_file()):
        name = str(source.relative_to(TEMPLATES))
        text = source.read_text(encoding="utf-8")
        if name.endswith(".j2"):
            text = environment.from_string(text).render(values)
        path = f"/{name.removesuffix('.j2')}"
        files[path] = File(text.encode(), 0o755 if text.startswith("#!") else 0o644)
        if path.startswith("/etc/systemd/system/") and "\n[Install]\n" in text:
            units.append(Path(path).name)
    links: dict[str, str] = {}
    for app in facts["applications"]:
        name = app["name"]
        for template, path in (
            ("unit.container.j2", f"/etc/containers/systemd/{name}@.container"),
            ("settings.conf.j2", f"/etc/stack/applications/{name}.conf"),
        ):
            text = (APPLICATION / template).read_text(encoding="utf-8")
            files[path] = File(environment.from_string(text).render(values, app=app).encode())
        links |= {
            f"/etc/containers/systemd/{name}@{number}.container": f"{name}@.container"
            for number in app["environments"]
        }
    return Host(files, links, units, facts["secrets"], facts)
