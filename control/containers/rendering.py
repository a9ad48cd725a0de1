"""
What a host that runs containers is to have: rendered on the controller by the same Salt from the same formulas as
a machine's, for the host itself has no Salt and no Python.
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .. import atomic_file, paths, salt_copy
from ..cloud import addresses
from ..credentials import given_secrets, shared_secrets
from ..errors import UserError
from ..paths import ROOT
from ..topology import Topology

# The host's, not this computer's.
GRAINS = {"os": "Debian", "os_family": "Debian", "oscodename": "trixie"}
PROGRAM = Path(__file__).with_name("salt_program.py")
TEMPLATES = ROOT / "containers" / "host"
# Accounts of the host that containers run as, {name: number}: those of the images (containers/images/*.yaml).
ACCOUNTS = {
    "counter": 10001,
    "haproxy": 10002,
    "redis": 10003,
    "prometheus": 10004,
    "alertmanager": 10005,
}
ROOT_ACCOUNT = ("root", 0)


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
    with tempfile.TemporaryDirectory(prefix="container-host-") as folder:
        # The release is the roll's affair (stack-roll), and in none of these files.
        identity = {"topology": topology.name, "name": host, "release": "0"}
        config = salt_copy.copy_tree(
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


def render(topology: Topology, host: str) -> Host:
    """Everything of one host; UserError or OperationError, in Salt's words, for settings that are refused."""
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
    files["/etc/stack/status.json"] = File(json.dumps(facts["status"], indent=1).encode())
    for number, environment in facts["environments"].items():
        text = "".join(f"{key}={value}\n" for key, value in sorted(environment.items()))
        files[f"/etc/stack/application/{number}.env"] = File(text.encode())
    return _add_templates(topology, host, facts, files)


def _add_templates(
    topology: Topology, host: str, facts: dict[str, Any], files: dict[str, File]
) -> Host:
    """With what is the host's own: containers/host, each file below the path that it has there."""
    # With Salt, which is installed where this is used.
    import jinja2

    values = {
        "machine": host,
        "topology": topology,
        "is_lab": not addresses.is_cloud(topology),
        "accounts": ACCOUNTS,
        # By nftables' families.
        "trusted": {
            family: [one for one in facts["trusted"] if (":" in one) == (family == "6")]
            for family in ("4", "6")
        },
        "zone": facts["zone"],
        "secrets": sorted(facts["secrets"]),
        "roll": facts["roll"],
        **facts["settings"],
    }
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        # None of what it writes is markup.
        autoescape=False,
    )
    units = []
    for source in sorted(path for path in TEMPLATES.rglob("*") if path.is_file()):
        name = str(source.relative_to(TEMPLATES))
        text = source.read_text(encoding="utf-8")
        if name.endswith(".j2"):
            text = environment.from_string(text).render(values)
        path = f"/{name.removesuffix('.j2')}"
        files[path] = File(text.encode(), 0o755 if text.startswith("#!") else 0o644)
        if path.startswith("/etc/systemd/system/") and "\n[Install]\n" in text:
            units.append(Path(path).name)
    links = {
        f"/etc/containers/systemd/counter@{number}.container": "counter@.container"
        for number in facts["environments"]
    }
    return Host(files, links, units, facts["secrets"], facts)
