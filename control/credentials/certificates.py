"""
Certificates of machines, and the authority that signs them: made and checked as the machines make and check theirs,
by the same modules (salt/_utils), which are loaded by path.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_UTILS = Path(__file__).resolve().parents[2] / "salt" / "_utils"
# A command that writes a PEM file without a key that somebody has put among its certificates.
WITHOUT_KEYS = "sed '/-BEGIN [A-Z ]*PRIVATE KEY-/,/-END [A-Z ]*PRIVATE KEY-/d'"


@functools.cache
def _shared(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, _UTILS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_ca(subject: str, days: int) -> tuple[str, str]:
    """A CA that signs machines and no other CA: ``(certificate, key)`` in PEM."""
    certificate, key = _shared("certificates").make_ca(subject, days)
    return certificate, key


def application(machine: str) -> str:
    """The name of the application on a machine (salt/_modules/pki.py)."""
    return f"app.{machine}"


def issue(
    ca: str, ca_key: str, name: str, addresses: Sequence[str], days: int, client: bool = False
) -> tuple[str, str]:
    """
    A certificate and key for machine ``name`` (PEM), for TLS as server and as client; it carries
    the name, ``localhost`` and the addresses, and ends with its CA at the latest. ``client``: for TLS as
    a client alone, with no name but its own.
    """
    usages = ["client"] if client else ["server", "client"]
    certificate, key = _shared("certificates").issue(
        ca, ca_key, name, addresses, days, usages=usages
    )
    return certificate, key


def belongs(certificate: str, key: str) -> bool:
    """Whether the key is the certificate's own, and the certificate is valid."""
    return not _shared("certificate_checks").pair_problems(certificate, key)


def fits(
    certificate: str,
    key: str,
    ca: str,
    name: str,
    addresses: Sequence[str],
    days: int,
    client: bool = False,
) -> bool:
    """Whether it is machine ``name``'s at these addresses, by this CA, for ``days`` more at least; with
    ``client`` an application's, which is a client alone."""
    parts = {"ca": ca, "certificate": certificate, "key": key}
    return not _shared("certificate_checks").problems(
        parts, name, addresses, days, application=client
    )
