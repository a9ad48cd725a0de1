"""
Secrets that several machines of a topology share: made here once, kept in
``.lab/TOPOLOGY/secrets/`` (0700, files 0600; git ignores it), given to those that need them.

Which there are is said by the formulas: ``salt/SERVICE/secrets.yaml``, ``{name: {roles: […]}}``, with
``kind: age`` for an identity of age(1) instead of random text.
Beside them stands the CA of the topology's machines; its key never leaves this folder. And what
somebody gives: control/credentials/given_secrets.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import atomic_file, local_state, paths, settings, ssh
from ..by_path import load_yaml
from ..errors import UserError
from ..paths import ROOT
from ..topology import ROLES, Machine, Topology
from . import age, certificates

# Days a machine's certificate is valid, and how many may be left before it is made anew.
DAYS, RENEW_DAYS = 90, 30
CA_DAYS = 3650
# How a secret of each kind is made.
MAKERS = {"random": lambda: secrets.token_urlsafe(32), "age": age.identity}


def folder(topology: Topology) -> Path:
    path = local_state.folder(topology) / "secrets"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


@contextlib.contextmanager
def lock_folder(topology: Topology) -> Iterator[Path]:
    """The folder, for one thread of one command at a time: each secret is made once."""
    place = folder(topology)
    with open(place / ".lock", "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield place


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


@dataclass(frozen=True)
class Secret:
    """``roles`` that need it; ``kind``: ``random`` or ``age``; ``several``: a role of which the topology must have
    several machines for it to be needed at all."""

    roles: tuple[str, ...]
    kind: str = "random"
    several: str = ""

    def is_for(self, topology: Topology, machine: Machine) -> bool:
        is_needed = not self.several or len(topology.with_role(self.several)) > 1
        return is_needed and bool(set(self.roles) & set(machine.roles))


def read_declared(topology: Topology) -> dict[str, Secret]:
    """The secrets that machines share, by name: those of formulas, and each application's password for the store."""
    declared: dict[str, Secret] = {}
    for path in sorted((ROOT / "salt").glob("*/secrets.yaml")):
        file = path.relative_to(ROOT)
        for name, entry in (load_yaml(path) or {}).items():
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
                raise UserError(f"{file}: {name}: use a-z, 0-9 and -")
            if not set(entry or ()) - {"kind", "form"}:
                # One machine's own, made there or given (control/credentials/given_secrets.py).
                continue
            roles = tuple(entry.get("roles", ()))
            if not roles or name == "pki" or set(roles) - set(ROLES):
                raise UserError(f"{file}: {name}: roles: needs a list of {', '.join(ROLES)}")
            kind = entry.get("kind", "random")
            if kind not in MAKERS:
                raise UserError(f"{file}: {name}: kind: is one of {', '.join(MAKERS)}")
            if name in declared:
                raise UserError(f"{file}: {name}: is another formula's already")
            several = entry.get("several", "")
            if several and several not in ROLES:
                raise UserError(f"{file}: {name}: several: is one of {', '.join(ROLES)}")
            declared[name] = Secret(roles, kind, several)
    with contextlib.suppress(UserError):
        # Of a template, which only Salt reads, nothing is known here.
        for name, app in (settings.read(topology).get("apps") or {}).items():
            if isinstance(app, dict) and app.get("redis"):
                declared[f"redis-{name}"] = Secret(("app", "store"))
    return declared


def make_for(topology: Topology, machine: Machine) -> dict[str, object]:
    """
    The secrets of one machine and no others', as its pillar has them below ``secrets``: what it
    shares with others, ``pki``, its certificate, and ``site``, that of several edges (not those given: control/credentials/given_secrets.py). Made at first need. Empty for a topology of
    one machine, which makes its own and shares nothing.
    """
    if len(topology.machines) == 1:
        return {}
    with lock_folder(topology) as place:
        _refuse_second_set(topology, place)
        values: dict[str, object] = {
            name: _value(place, name, secret.kind)
            for name, secret in read_declared(topology).items()
            if secret.is_for(topology, machine)
        }
        values["pki"] = _pki(place, topology, machine)
        if "edge" in machine.roles and len(topology.with_role("edge")) > 1:
            values["site"] = _site(place, topology)
    return values


def make_authority(topology: Topology) -> None:
    """
    The authority of a topology whose machines are all about to be made: none of them can have secrets,
    so none is asked (:func:`_refuse_second_set`), and one that never answers keeps no other waiting.
    """
    if len(topology.machines) == 1:
        return
    with lock_folder(topology) as place:
        _authority(place, topology)


def _refuse_second_set(topology: Topology, place: Path) -> None:
    """
    UserError where secrets are about to be made for machines that share some already: a second
    authority and a second password would cut each machine that gets them off from the others.
    """
    if (place / "ca.key").exists() or not local_state.is_up(topology):
        return
    # Not at the top: it needs this module for what it carries.

    for host in topology.machines:
        command = f"test -s {paths.SECRETS_ON_MACHINE} && echo yes || true"
        if ssh.run(topology, host, command).strip():
            raise UserError(
                f"{host} has secrets that it shares with others, and {place}, where they are kept, is"
                f" empty here: {local_state.import_hint(topology)}; for a pipeline DEPLOY_STATE, nothing was changed"
            )


def _value(place: Path, name: str, kind: str = "random") -> str:
    path = place / name
    value = _read(path)
    if not value:
        value = MAKERS[kind]()
        atomic_file.write(path, value)
    return value


def _authority(place: Path, topology: Topology) -> tuple[str, str]:
    """Certificate and key of the topology's CA, in PEM; made at first need."""
    ca, ca_key = _read(place / "ca.crt"), _read(place / "ca.key")
    if not ca or not ca_key or not certificates.belongs(ca, ca_key):
        ca, ca_key = certificates.make_ca(f"machines of {topology.name}", CA_DAYS)
        atomic_file.write(place / "ca.key", ca_key)
        atomic_file.write(place / "ca.crt", ca)
    return ca, ca_key


def _pki(place: Path, topology: Topology, machine: Machine) -> dict[str, object]:
    """
    ``{ca, certificate, key}`` of a machine, in PEM, and of one with an application
    ``application: {certificate, key}``; made anew when it no longer fits or lasts.
    """
    ca, ca_key = _authority(place, topology)
    addresses = [machine.address, "127.0.0.1"]
    certificate = _read(place / f"machine-{machine.name}.crt")
    key = _read(place / f"machine-{machine.name}.key")
    if (
        not certificate
        or not key
        or not certificates.fits(certificate, key, ca, machine.name, addresses, RENEW_DAYS)
    ):
        certificate, key = certificates.issue(ca, ca_key, machine.name, addresses, DAYS)
        atomic_file.write(place / f"machine-{machine.name}.key", key)
        atomic_file.write(place / f"machine-{machine.name}.crt", certificate)
    identity: dict[str, object] = {"ca": ca, "certificate": certificate, "key": key}
    if "app" in machine.roles:
        identity["application"] = _application(place, ca, ca_key, machine)
    return identity


def _application(place: Path, ca: str, ca_key: str, machine: Machine) -> dict[str, str]:
    """``{certificate, key}`` of the application on a machine; both in one file."""
    name, path = certificates.application(machine.name), place / f"app-{machine.name}.pem"
    certificate, begin, key = (_read(path) or "").partition("-----BEGIN PRIVATE KEY-----")
    key = begin + key
    if not certificate or not certificates.fits(
        certificate, key, ca, name, [], RENEW_DAYS, client=True
    ):
        certificate, key = certificates.issue(ca, ca_key, name, [], DAYS, client=True)
        atomic_file.write(path, certificate + key)
    return {"certificate": certificate, "key": key}


def _site(place: Path, topology: Topology) -> dict[str, str]:
    """
    ``{ca, certificate, key}`` in PEM of the site, the same for every edge: by a small CA of the site's own, as
    an edge alone makes it (salt/_modules/site.py).
    """
    ca, ca_key = _read(place / "site-ca.crt"), _read(place / "site-ca.key")
    if not ca or not ca_key or not certificates.belongs(ca, ca_key):
        ca, ca_key = certificates.make_ca(f"{topology.domain[:61]} CA", CA_DAYS)
        atomic_file.write(place / "site-ca.key", ca_key)
        atomic_file.write(place / "site-ca.crt", ca)
    applications = (settings.read(topology).get("apps") or {}).values()
    hosts = {host for one in applications for host in (one or {}).get("hosts") or ()}
    names = sorted({topology.domain, "localhost", *topology.with_role("edge"), *hosts})
    certificate, key = _read(place / "site.crt"), _read(place / "site.key")
    if (
        not certificate
        or not key
        or not certificates.fits_site(
            certificate, key, ca, names, topology.site_addresses, RENEW_DAYS
        )
    ):
        certificate, key = certificates.issue_site(
            ca, ca_key, topology.domain, names, topology.site_addresses, DAYS
        )
        atomic_file.write(place / "site.key", key)
        atomic_file.write(place / "site.crt", certificate)
    return {"ca": ca, "certificate": certificate, "key": key}


def rotate(topology: Topology, name: str) -> None:
    """
    A new value for a shared secret; one whose rotation was interrupted keeps the one it got. UserError
    for one that is no random text: what it has closed, no other opens.
    """
    if (secret := read_declared(topology).get(name)) and secret.kind != "random":
        raise UserError(f"{name}: is never rotated: see its formula's README.md in salt/", 2)
    with lock_folder(topology) as place:
        _refuse_second_set(topology, place)
        value, before = _value(place, name), place / f"{name}.previous"
        if not before.exists():
            atomic_file.write(before, value)
        if before.read_text(encoding="utf-8") == value:
            atomic_file.write(place / name, secrets.token_urlsafe(32))


def replace(topology: Topology, name: str, value: str) -> None:
    """Another value for a shared secret, which somebody gives (control/credentials/given_secrets.py)."""
    with lock_folder(topology) as place:
        _refuse_second_set(topology, place)
        if read_declared(topology)[name].kind == "age" and "AGE-SECRET-KEY-1" not in value:
            raise UserError(f"{name}: needs an age identity, AGE-SECRET-KEY-1…", 2)
        atomic_file.write(place / name, value)


def delete_previous(topology: Topology, name: str) -> None:
    """The rotation of ``name`` has come to its end."""
    (folder(topology) / f"{name}.previous").unlink(missing_ok=True)


def delete_machine_keys(topology: Topology, machine: str) -> None:
    """A machine is gone: so is its key. What somebody gave it stays, for one of that name made anew."""
    for suffix in ("crt", "key"):
        (folder(topology) / f"machine-{machine}.{suffix}").unlink(missing_ok=True)
    (folder(topology) / f"app-{machine}.pem").unlink(missing_ok=True)
